"""Runs the application on a socket of this machine."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from types import FrameType

import uvicorn
from fastapi import FastAPI

from codetune.api.connections import LAST, Complaints, Connection
from codetune.errors import ConfigError, ServingError
from codetune.serving.engine import Engine

_GRACE = 0.5  # seconds that running answers have to end after Ctrl-C
_TICK = 0.1  # seconds between two looks whether to stop
_WAITING = 256  # connections that the system holds until they are taken


class Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and lets go of its engine before it stops."""

    def __init__(
        self,
        app: FastAPI,
        engine: Engine,
        listening: Callable[[], None] = lambda: None,
        *,
        load: Callable[[], object] | None = None,
        drain: float = _GRACE,
    ) -> None:
        """`load` reads the weights while /health answers already, and /ready says that it waits;
        `listening` is called when that is done.
        """
        config = uvicorn.Config(
            app,
            log_config=None,  # the handlers of whoever runs this
            log_level="warning",
            access_log=False,
            server_header=False,
            http=Connection,
            ws="none",
            backlog=_WAITING,
            # Tasks are cancelled a second after their connections have been cut off.
            timeout_graceful_shutdown=int(LAST) + 1,
        )
        super().__init__(config)
        self._engine, self._listening, self._drain = engine, listening, drain
        self._app, self._load = app, load

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C comes from somebody who waits."""
        if sig == signal.SIGINT:
            self._drain = min(self._drain, _GRACE)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(Complaints())
        await super().startup(sockets)
        if self._load is not None:
            loaded: Future[object] = Future()
            # A daemon: Ctrl-C does not wait until a large model has been read.
            Thread(target=_settle, args=(loaded, self._load), daemon=True).start()
            waiting = asyncio.wrap_future(loaded)
            while not (self.should_exit or waiting.done()):
                await asyncio.wait({waiting}, timeout=_TICK)
            if waiting.done() and (error := waiting.exception()) is not None:
                await self.shutdown(sockets)
                raise error
        if not self.should_exit:
            self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Running answers may end within `drain` seconds; then they are told that this is the end.

        Who comes in the meantime is told so at once.
        """
        self._app.state.readiness.draining = True
        await asyncio.to_thread(self._engine.close, self._drain)
        await super().shutdown(sockets)


def _settle(future: Future[object], work: Callable[[], object]) -> None:
    future.set_running_or_notify_cancel()
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def listen(host: str, port: int, *, public: bool = False) -> socket.socket:
    """A listening socket on an address of this machine; only with `public` one that others reach.

    Raises:
        ConfigError: others reach it, and there are no accounts; or it is no address.
        ServingError: the port is in use, or not allowed.
    """
    family, address = _address(host, public)
    # The protocol is named, since asyncio turns Nagle's algorithm off only where it is: with it,
    # the body of an answer waits some 40 ms for the client to acknowledge the head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(_WAITING)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ServingError(
                f"Port {port} is in use already.",
                advice=f"Another codetune serve? Stop it, or choose another port: --port {port + 1}"
                if port < 65535
                else "Choose another port with --port.",
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise ServingError(
                f"{host} is none of this machine's addresses.",
                advice="127.0.0.1 for this machine only; 0.0.0.0 for all of its addresses.",
            ) from error
        raise ServingError(
            f"{host}:{port} cannot be listened on: {error.strerror}.",
            advice="Ports below 1024 belong to the system; 8000 is the default.",
        ) from error
    return listener


def is_loopback(host: str) -> bool:
    """Does only this machine reach `host`?"""
    address = _parsed(host)
    return address is not None and address.is_loopback


def _address(host: str, public: bool) -> tuple[socket.AddressFamily, str]:
    address = _parsed(host)
    if address is None:
        raise ConfigError(
            f"--host {host}: not an IP address of this machine.",
            advice="127.0.0.1 for this machine only; 0.0.0.0 for all of its addresses.",
        )
    if not address.is_loopback and not public:
        raise ConfigError(
            f"--host {host}: others reach this address, and there is no account to log in with.",
            advice="Make one first: codetune users add NAME   Or use a tunnel: "
            "ssh -L 8000:127.0.0.1:8000 this-machine",
        )
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET, str(address)


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        return None
