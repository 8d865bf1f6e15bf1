"""Brings up the loopback interface of a new network namespace, then becomes a program.

loopback.py PROGRAM [ARGUMENT]...
"""

import fcntl
import os
import socket
import struct
import sys

# <linux/sockios.h>, <linux/if.h>
SIOCSIFFLAGS, SIOCSIFADDR = 0x8914, 0x8916
UP_AND_RUNNING = 0x1 | 0x40

control = socket.socket()
fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", UP_AND_RUNNING))
# Slurm resolves addresses only where there is another one than 127.0.0.1: getaddrinfo(3), AI_ADDRCONFIG.
address = socket.inet_aton("192.0.2.1")
fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16sHH4s16x", b"lo:1", socket.AF_INET, 0, address))
os.execv(sys.argv[1], sys.argv[1:])
