"""Runs the command of a container whose root directory is made: container.py ROOT read-only|writable COMMAND...

As a container runtime does it for root with all capabilities dropped.
"""

import ctypes
import os
import subprocess
import sys

PR_CAPBSET_DROP = 24

root, access, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if access == "read-only":
    subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
os.chroot(root)
os.chdir("/")
# A program that starts has no capability outside of the bounding set, root's included.
for capability in range(64):
    libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execve(command[0], command, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
