"""Tries to look into processes and files that are other users'. Prints what it could see, then `done`.

spy.py PID... ; paths on standard input, one a line
"""

import ctypes
import errno
import os
import signal
import socket
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.syscall.argtypes = [ctypes.c_long] * 7
PTRACE_ATTACH, PTRACE_SEIZE, PIDFD_GETFD = 16, 0x4206, 438
# Of a process's directory, what only the process's own user may look at.
SECRETS = "environ mem maps smaps smaps_rollup numa_maps auxv io stack syscall pagemap personality".split()


def attempt(what, act):
    """Prints what could be done; a refusal is the one right end."""
    try:
        act()
    except PermissionError:
        return
    except OSError as error:
        print(what, errno.errorcode[error.errno])
        return
    print(what, "succeeded")


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def copy_memory(pid):
    space = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(space), 8)
    address = ctypes.addressof(vector)
    check(libc.syscall(310, pid, address, 1, address, 1, 0))


def take_descriptor(pid):
    check(libc.syscall(PIDFD_GETFD, os.pidfd_open(pid), 3, 0, 0, 0, 0))


for pid in map(int, sys.argv[1:]):
    place = f"/proc/{pid}"
    os.stat(place)
    for name in filter(lambda name: os.path.exists(f"{place}/{name}"), SECRETS):
        attempt(f"{pid} {name}", lambda: read(f"{place}/{name}"))
    for name in ("fd", "fdinfo", "map_files"):
        attempt(f"{pid} {name}", lambda: os.listdir(f"{place}/{name}"))
    for name in ("root", "cwd", "exe", "ns/mnt"):
        attempt(f"{pid} {name}", lambda: os.readlink(f"{place}/{name}"))
    for number in range(64):
        attempt(f"{pid} descriptor {number}", lambda: read(f"{place}/fd/{number}"))
    attempt(f"{pid} attach", lambda: check(libc.ptrace(PTRACE_ATTACH, pid, None, None)))
    attempt(f"{pid} seize", lambda: check(libc.ptrace(PTRACE_SEIZE, pid, None, None)))
    attempt(f"{pid} memory", lambda: copy_memory(pid))
    attempt(f"{pid} take", lambda: take_descriptor(pid))
    for name in ("SIGUSR1", "SIGSTOP", "SIGABRT", "SIGTERM", "SIGKILL"):
        attempt(f"{pid} {name}", lambda: os.kill(pid, signal.Signals[name]))


def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


for path in sys.stdin.read().splitlines():
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        mode = 0
    if stat.S_ISDIR(mode):
        attempt(f"list {path}", lambda: os.listdir(path))
        attempt(f"write {path}", lambda: open(f"{path}/planted", "x").close())
    elif stat.S_ISSOCK(mode):
        attempt(f"connect {path}", lambda: connect(path))
    else:
        attempt(f"read {path}", lambda: read(path))
        if not mode:
            attempt(f"list {path}", lambda: os.listdir(path))
        attempt(f"change {path}", lambda: open(path, "r+").close())
print("done")
