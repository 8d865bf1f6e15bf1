"""Tries every loopback port of the agent's ranges with a job's handle; prints where a connection came about.

stranger.py HANDLE [FIRST LAST]...
"""

import socket
import sys

handle, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
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


def is_a_services(port):
    """Whether it is a known service's: the agent leaves these out, and a server of this machine may be there."""
    try:
        return port < 1024 and bool(socket.getservbyport(port, "tcp"))
    except OSError:
        return False


ranges = [range(first, last + 1) for first, last in zip(ports[::2], ports[1::2])]
for port in (port for each in ranges for port in each if not is_a_services(port)):
    try:
        answers = [ask(port, request) for request in requests(port)]
    except OSError:
        continue
    for answer in answers:
        print(port, answer[:15].decode(errors="replace").split("\r")[0], "token" if b"ya29" in answer else "none")
