"""Takes a port and answers every request with a token of its own; prints `taken` or the error, then what it was sent.

squatter.py PORT
"""

import errno
import http.server
import socket
import sys


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


port, server = int(sys.argv[1]), None
# Every way to share a port with somebody who has it.
for address in ("127.0.0.1", "0.0.0.0"):
    for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
        one = socket.socket()
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            one.bind((address, port))
            one.listen()
        except OSError as error:
            reason = errno.errorcode[error.errno]
            one.close()
            continue
        server = one
        break
    if server:
        break
if not server:
    sys.exit(reason)
print("taken", flush=True)
served = http.server.HTTPServer(("127.0.0.1", port), Squatter, bind_and_activate=False)
served.socket.close()
served.socket = server
served.serve_forever()
