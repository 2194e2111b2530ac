"""A local server for a page on which the reader tries inputs."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from implicit_em.base.errors import ConfigError, raising
from implicit_em.viewer.page import INDEX
from implicit_em.viewer.trying import Trial

HOST = "127.0.0.1"
MOST_BYTES = 40_000
"""Largest size of an input."""
INPUTS_A_SECOND, REQUESTS_A_SECOND = 5.0, 100.0
"""Inputs, and requests of any kind, that are answered each second; twice as many at once."""
MOST_CONNECTIONS = 64
"""Number of connections that are kept; a further one closes the oldest."""
PATIENCE = 10.0
"""Seconds in which a client must have sent a whole request."""
TOO_MANY = "allowed are {:g} requests a second"

_of_clients = logging.getLogger(f"{__name__}.clients")
_of_clients.setLevel(logging.CRITICAL)  # mistakes of clients are not logged


class _Rate:
    """Counts requests, and lets a number of them pass each second."""

    def __init__(self, a_second: float) -> None:
        self.a_second, self._left, self._last = a_second, 2 * a_second, time.monotonic()

    def allowed(self) -> bool:
        """Count a request, and return whether it may be answered now."""
        now = time.monotonic()
        more = self.a_second * (now - self._last)
        self._left, self._last = min(2 * self.a_second, self._left + more), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Server:
    """Gives the files of a page, and answers requests from this page alone.

    Args:
        folder: folder of the page.
        trials: answer requests, one after another; ``encode`` answers ``POST /encode``, and so on.
        listening: socket that listens.
        loop: the server's own event loop.
    """

    def __init__(
        self,
        folder: Path,
        trials: Mapping[str, Trial],
        listening: socket.socket,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.folder, self.trials, self.listening, self.loop = folder, trials, listening, loop
        self.port: int = listening.getsockname()[1]
        self._requests, self._inputs = _Rate(REQUESTS_A_SECOND), _Rate(INPUTS_A_SECOND)
        self._worker, self._ended = ThreadPoolExecutor(1), asyncio.Event()

    def serve_forever(self) -> None:
        """Answer until ``shutdown`` is called, or Ctrl-C raises ``KeyboardInterrupt``."""
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    def shutdown(self) -> None:
        """Let ``serve_forever`` return; this may be called from any thread."""
        self.loop.call_soon_threadsafe(self._ended.set)

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._checked], client_max_size=MOST_BYTES)
        app.router.add_get("/", self._index)
        for name, trial in self.trials.items():
            app.router.add_post(f"/{name}", partial(self._answer, trial))
        app.router.add_static("/", self.folder)
        times = {"keepalive_timeout": PATIENCE, "lingering_time": 1, "shutdown_timeout": 0.1}
        options: dict[str, Any] = {"access_log": None, "logger": _of_clients, **times}
        application = web.AppRunner(app, auto_decompress=False, **options)
        await application.setup()
        answering = application.server
        assert answering is not None

        def connected() -> web.RequestHandler:
            for oldest in answering.connections[: 1 - MOST_CONNECTIONS]:
                if oldest.transport is not None:
                    oldest.transport.abort()
            return answering()

        listener = await self.loop.create_server(connected, sock=self.listening)
        try:
            await self._ended.wait()
        finally:
            listener.close()
            self._worker.shutdown(wait=False, cancel_futures=True)
            await application.cleanup()

    @web.middleware
    async def _checked(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse floods, and another host name, which is that of another site."""
        if request.headers.get("Host") not in (f"{HOST}:{self.port}", f"localhost:{self.port}"):
            return _says(403, error="another host")
        if not self._requests.allowed():
            return _says(429, error=TOO_MANY.format(REQUESTS_A_SECOND))
        try:
            return await handler(request)
        except TimeoutError:
            return _says(408, error=f"allowed are {PATIENCE:g} seconds")
        except OSError:  # of a name that no file can have
            return _says(404, error="no such address")

    async def _index(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(self.folder / INDEX)

    async def _answer(self, trial: Trial, request: web.Request) -> web.Response:
        """Answer an input."""
        if (
            request.headers.get("Origin") != f"http://{request.headers['Host']}"
            or request.headers.get("Content-Type") != "application/json"
        ):
            return _says(403, error="another page may not ask")
        if not self._inputs.allowed():
            return _says(429, error=TOO_MANY.format(INPUTS_A_SECOND))
        async with asyncio.timeout(PATIENCE):
            body = await request.read()
        try:
            question = json.loads(body)
            if not isinstance(question, dict):
                raise ValueError("needs an object")
            answer = await self.loop.run_in_executor(self._worker, trial, question)
        except Exception as error:  # of JSON, of the input, or of what a model makes of it
            return _says(400, error=str(error))
        return _says(200, **answer)


def _says(status: int, **content: Any) -> web.Response:
    headers = {"X-Content-Type-Options": "nosniff"}
    return web.json_response(content, status=status, headers=headers)


@contextmanager
def serving(
    folder: Path, trials: Mapping[str, Trial], port: int = 0
) -> Iterator[tuple[str, Server]]:
    """Listen on this machine alone; yield the address of a page, and the server.

    Args:
        folder: folder of the page; the server needs it when it begins to answer.
        trials: see ``Server``.
        port: port; 0 takes a free one.

    Raises:
        ConfigError: if the port is taken, or there is none of this number.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(f"port={port}: allowed are 0 to {2**16 - 1}")
    with raising(ConfigError, f"port={port}", OSError):
        listening = socket.create_server((HOST, port))
    with listening, closing(asyncio.new_event_loop()) as loop:
        server = Server(folder, trials, listening, loop)
        yield f"http://{HOST}:{server.port}/", server
