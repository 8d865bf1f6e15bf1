"""Opens many connections to a port, says next to nothing on them, and keeps them.

crowd.py PORT COUNT
"""

import resource
import signal
import socket
import sys

port, count = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
crowd = []
for number in range(count):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    if number % 2:
        try:
            connection.sendall(b"GET /computeMetadata/v1/ HTTP/1.1\r\nX-Slow: ")
        except OSError:
            # He was shown out.
            pass
    crowd.append(connection)
print("open", flush=True)
signal.pause()
