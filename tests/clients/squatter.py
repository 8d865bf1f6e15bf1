"""Takes a port and answers every request with a token of its own; prints `taken` or the error, then what it was sent.

squatter.py PORT [SECONDS]

SECONDS is how long it keeps trying: the kernel reserves a port for a minute after a connection there (TIME_WAIT).
"""

import errno
import http.server
import socket
import sys
import time


class Squatter(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        print(body.decode(), flush=True)
        answer = b'{"access_token": "of-bob", "token_type": "Bearer", "expires_in": 3600}'
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass




def take(port):
    """Returns a listening socket, or the error. Tries every way to share a port with a process that has it."""
    for address in ("127.0.0.1", "0.0.0.0"):
        for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
            one = socket.socket()
            for option in options:
                one.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                one.bind((address, port))
                one.listen()
                return one, None
            except OSError as error:
                reason = errno.errorcode[error.errno]
                one.close()
    return None, reason


port, end = int(sys.argv[1]), time.monotonic() + float((sys.argv + ["0"])[2])
server, reason = take(port)
while not server and time.monotonic() < end:
    time.sleep(0.05)
    server, reason = take(port)
if not server:
    sys.exit(reason)
print("taken", flush=True)
served = http.server.HTTPServer(("127.0.0.1", port), Squatter, bind_and_activate=False)
served.socket.close()
served.socket = server
served.serve_forever()
