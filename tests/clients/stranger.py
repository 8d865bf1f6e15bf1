"""Tries every loopback port of the agent's range with a job's handle; prints where a connection came about.

stranger.py FIRST LAST HANDLE
"""

import socket
import sys

first, last, handle = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
FORM = f"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token={handle}"


def requests(port):
    for host in (f"127.0.0.1:{port}", "metadata.google.internal"):
        yield f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nMetadata-Flavor: Google\r\nConnection: close\r\n\r\n"
    yield (
        f"POST /v1/token HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(FORM)}\r\n\r\n{FORM}"
    )


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        answer = b""
        try:
            connection.sendall(request.encode())
            while chunk := connection.recv(65536):
                answer += chunk
        except OSError:
            # Another program of this machine may take its time, or hang up.
            pass
        return answer


for port in range(first, last):
    try:
        answers = [ask(port, request) for request in requests(port)]
    except OSError:
        continue
    for answer in answers:
        print(port, answer[:15].decode(errors="replace").split("\r")[0], "token" if b"ya29" in answer else "none")
