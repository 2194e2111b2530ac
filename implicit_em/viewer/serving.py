"""A local server for a page on which the reader tries inputs."""

import json
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Lock
from typing import Any

from implicit_em.base.errors import ConfigError, raising
from implicit_em.viewer.trying import Trial

HOST = "127.0.0.1"
MOST_BYTES = 40_000
"""Largest size of an input."""


class Server(ThreadingTCPServer):
    """Gives the files of a page to this machine alone, and answers inputs from this page alone.

    ``serve_forever`` answers until another thread calls ``shutdown``, or Ctrl-C ends it.

    Args:
        folder: folder of the page; it is needed when the server begins to answer.
        trials: answer inputs, one after another; ``encode`` answers ``POST /encode``, and so on.
        port: port; 0 takes a free one.

    Raises:
        ConfigError: if the port is taken, or there is none of this number.
    """

    allow_reuse_address = True
    daemon_threads = True
    """Ctrl-C waits for no client."""

    def __init__(self, folder: Path, trials: Mapping[str, Trial], port: int) -> None:
        self.trials, self.one_at_a_time = trials, Lock()
        with raising(ConfigError, f"port={port}", OSError, OverflowError):
            super().__init__((HOST, port), partial(_Request, directory=str(folder)))

    @property
    def names(self) -> list[str]:
        """What browsers call the server."""
        return [f"{name}:{self.server_address[1]}" for name in (HOST, "localhost")]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that breaks off."""


class _Request(SimpleHTTPRequestHandler):
    """Answers a client; a request to another host name, or from another page, is refused."""

    server: Server

    def send_head(self) -> Any:
        """Send the head of a file of the page."""
        # The name of another site may lead to this address.
        if self.headers.get("Host") not in self.server.names:
            return self._say(HTTPStatus.FORBIDDEN, error="another host")
        return super().send_head()

    def do_POST(self) -> None:
        """Answer an input."""
        try:
            size = int(self.headers.get("Content-Length", ""))
            if not 0 <= size <= MOST_BYTES:
                return self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error="too large")
            body = self.rfile.read(size)
            host, kind = self.headers.get("Host"), self.headers.get("Content-Type")
            is_own = host in self.server.names and kind == "application/json"
            if not is_own or self.headers.get("Origin") != f"http://{host}":
                return self._say(HTTPStatus.FORBIDDEN, error="another page may not ask")
            if (trial := self.server.trials.get(self.path[1:])) is None:
                return self._say(HTTPStatus.NOT_FOUND, error="no such address")
            question = json.loads(body)
            if not isinstance(question, dict):
                raise ValueError("needs an object")
            with self.server.one_at_a_time:
                answer = trial(question)
        except Exception as error:  # of JSON, of the input, or of what a model makes of it
            return self._say(HTTPStatus.BAD_REQUEST, error=str(error))
        return self._say(HTTPStatus.OK, **answer)

    def _say(self, status: HTTPStatus, **content: Any) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
