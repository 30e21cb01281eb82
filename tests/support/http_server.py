"""A web server as people write them: threads, one connection each.

    python -m tests.support.http_server ADDRESS PORT

GET answers without end, PUT takes all there is. Prints a line when it listens, and serves until it is killed.
"""

import os
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6

BLOCK = bytes(1 << 16)


class Handler(BaseHTTPRequestHandler):
    """Of the version without chunks: an answer ends when the connection does."""

    def do_GET(self) -> None:
        """Bytes."""
        self.send_response(200)
        self.end_headers()
        with suppress(ConnectionError):
            while True:
                self.wfile.write(BLOCK)

    def do_PUT(self) -> None:
        """To /dev/null: /proc/PID/io counts what is written, not what sockets receive."""
        if self.headers["Expect"]:
            self.send_response_only(100)
            self.end_headers()
        with suppress(ConnectionError), Path(os.devnull).open("wb", buffering=0) as sink:
            while data := self.rfile.read1(len(BLOCK)):
                sink.write(data)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 # the base class's name
        """Not on a test's screen."""


def main() -> None:
    """Serve."""
    address, port = sys.argv[1], int(sys.argv[2])

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in address else AF_INET

    with Server((address, port), Handler) as server:
        print("listens", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
