"""A local server for a page on which the reader tries inputs."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from implicit_em.base.errors import ConfigError
from implicit_em.viewer.trying import Trial

HOST = "127.0.0.1"
MOST_BYTES = 40_000
"""Largest size of a request."""
A_SECOND, BURST = 5.0, 10.0
"""Requests a second that are answered, and how many may come together."""


class _Answers:
    """Answers one input after another, and only so many a second."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self._trying = trial, threading.Lock()
        self._left, self._last, self._counting = BURST, time.monotonic(), threading.Lock()

    def __call__(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._trying:
            return self.trial(question)

    def allowed(self) -> bool:
        """Count a request, and return whether it may be answered now."""
        with self._counting:
            now = time.monotonic()
            self._left = min(BURST, self._left + A_SECOND * (now - self._last))
            self._last = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class _Handler(SimpleHTTPRequestHandler):
    """Gives the files of a page, and answers ``POST /encode`` from this page alone."""

    def __init__(self, *args: Any, answers: "_Answers", **kwargs: Any) -> None:
        self.answers = answers
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        """Give a file of the page; another host name is that of another site."""
        if self._is_ours:
            super().do_GET()

    def do_HEAD(self) -> None:
        """Give the headers of a file."""
        if self._is_ours:
            super().do_HEAD()

    def do_POST(self) -> None:
        """Answer an input."""
        if not self._is_ours:
            return
        origin, kind = self.headers.get("Origin"), self.headers.get("Content-Type", "")
        size = self.headers.get("Content-Length", "")
        if self.path != "/encode":
            self._say(HTTPStatus.NOT_FOUND, "no such address")
        elif origin != f"http://{self.headers['Host']}" or kind != "application/json":
            self._say(HTTPStatus.FORBIDDEN, "another page may not ask")
        elif not size.isdigit() or int(size) > MOST_BYTES:
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"allowed are {MOST_BYTES:,} bytes")
        elif not self.answers.allowed():
            self._say(HTTPStatus.TOO_MANY_REQUESTS, f"allowed are {A_SECOND:g} requests a second")
        else:
            self._answer(self.rfile.read(int(size)))

    def _answer(self, body: bytes) -> None:
        try:
            question = json.loads(body)
            if not isinstance(question, dict):
                raise ValueError("needs an object")
            answer = self.answers(question)
        except (ValueError, TypeError, RecursionError) as error:
            self._say(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self._send(HTTPStatus.OK, answer)

    @property
    def _is_ours(self) -> bool:
        port = self.server.server_address[1]  # type: ignore[index]
        if self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._say(HTTPStatus.FORBIDDEN, "another host")
        return False

    def _say(self, status: HTTPStatus, error: str) -> None:
        self.close_connection = True  # what was not read must not be taken for a request
        self._send(status, {"error": error})

    def _send(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path, trial: Trial, port: int = 0) -> Iterator[tuple[str, Any]]:
    """Serve a page to this machine alone; yield its address, and the server.

    Args:
        folder: folder of the page.
        trial: answers inputs.
        port: port; 0 takes a free one.

    Raises:
        ConfigError: if the port is taken.
    """
    handler = partial(_Handler, answers=_Answers(trial), directory=str(folder))
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port={port}: {error}") from error
    with server:
        yield f"http://{HOST}:{server.server_address[1]}/", server
