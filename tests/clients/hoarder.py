"""Takes every port of 127.0.0.1 in a range that it can have; prints how many it has.

hoarder.py FIRST LAST
"""

import signal
import socket
import sys

held = []
for port in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    one = socket.socket()
    try:
        one.bind(("127.0.0.1", port))
        one.listen()
    except OSError:
        # It is somebody's already, or none that users may have.
        one.close()
    else:
        held.append(one)
print(len(held), flush=True)
signal.pause()
