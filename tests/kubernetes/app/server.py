"""What runs in the pods of tests: it says who it is, fetches what it is asked to, and takes its leave.

`GET /` answers host and version. `GET /ready` is its readiness: 503 when READY is "no". `GET /fetch?URL` answers with
what is there; the cluster's API server is asked as the pod's service account. On SIGTERM it serves on for DRAIN_S, as
long as others may not know yet that it goes.
"""

import os
import pathlib
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.request
from http import server

VERSION = os.environ.get("VERSION", "1")
_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Handler(server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        status, said = 200, f"{socket.gethostname()} {VERSION}"
        if path == "/ready" and os.environ.get("READY") == "no":
            status, said = 503, "not yet"
        elif path == "/fetch":
            said = fetch(query)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of single requests."""


def fetch(url: str) -> str:
    asked, trusted = urllib.request.Request(url), None
    if url.startswith("https://kubernetes.default.svc/"):
        asked.add_header("Authorization", f"Bearer {(_ACCOUNT / 'token').read_text()}")
        trusted = ssl.create_default_context(cafile=_ACCOUNT / "ca.crt")
    with urllib.request.urlopen(asked, timeout=5, context=trusted) as answer:
        return str(answer.read().decode())


def main() -> None:
    serving = server.ThreadingHTTPServer(("", 8080), Handler)

    def leave(*_: object) -> None:
        sys.stdout.write("leaving\n")
        sys.stdout.flush()
        time.sleep(float(os.environ.get("DRAIN_S", "0")))
        serving.shutdown()

    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=leave).start())
    sys.stdout.write(f"serving version {VERSION}\n")
    sys.stdout.flush()
    serving.serve_forever()


if __name__ == "__main__":
    main()
