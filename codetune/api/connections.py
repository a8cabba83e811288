"""Connections: how long one may say nothing, and what is said when there are too many of them."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 30.0  # seconds for a request's head, and without a byte of its body
LAST = 1.0  # seconds after which whoever is still answered at the server's end is cut off
_OPEN_FILES = 65_536  # as many as a server wants; each connection is one
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SAID_EVERY = 60.0  # seconds
_log = logging.getLogger("codetune.api.connections")


class Connection(H11Protocol):
    """One that is closed where nothing comes of it.

    A head has to be whole in time, however it drips; of a body, some has to come now and then.
    Nobody waits for whoever waits for an answer.
    """

    patience = PATIENCE

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.app_state = {**self.app_state, "hang_up": self.hang_up}
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_asking():
            self._wait_no_more()
        self._wait_on()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_on()

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(LAST, self.hang_up)

    def hang_up(self) -> None:
        """Break off, whether or not the client has taken what was written for it."""
        self.transport.abort()

    def _is_asking(self) -> bool:
        """Is there a request that has not been answered?"""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_on(self) -> None:
        if self._is_asking() and not self.cycle.more_body:
            self._wait_no_more()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.patience, self._give_up)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_asking():
            self.timeout_keep_alive_handler()
        elif self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._wait_on()  # it is this side that has not read on
        elif self.cycle.response_started:
            self.hang_up()
        else:
            head = [(b"connection", b"close"), (b"content-length", b"0")]
            response = h11.Response(status_code=408, headers=head, reason=b"Request Timeout")
            self.transport.write(self.conn.send(response) or b"")
            self.transport.close()


class Complaints:
    """The event loop's exception handler: that there are no connections left is said, not shown.

    The loop tells of each try, hundreds in a second.
    """

    def __init__(self) -> None:
        self._said = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _NONE_LEFT):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said > _SAID_EVERY:
            self._said = time.monotonic()
            _log.error("New connections have to wait: %s.", error.strerror)


def allow_open_files() -> None:
    """Let this process open as many files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
