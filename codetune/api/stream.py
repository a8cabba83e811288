"""Waiting for answers and sending them on, as long as somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_SLOWEST_READER = 30.0  # seconds in which a reader has to take one chunk
T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection; there is nobody to answer."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away.

    Raises:
        ClientGoneError: it went away.
    """
    task = asyncio.create_task(work)
    listener = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for pending in (task, listener):
            pending.cancel()
        await asyncio.gather(task, listener, return_exceptions=True)


EVENTS, LINES = "text/event-stream", "application/x-ndjson"


class EventStream(Response):
    """Events or lines. The source is closed as soon as the client is gone or too slow."""

    def __init__(self, events: AsyncIterator[bytes], media_type: str = EVENTS) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = asyncio.create_task(self._send(send))
        listener = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sender, listener}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
        except TimeoutError:
            # A reader that stalls loses its connection: the body stays unfinished.
            if hang_up := scope.get("state", {}).get("hang_up"):
                hang_up()
                await listener
        finally:
            for pending in (sender, listener):
                pending.cancel()
            await asyncio.gather(sender, listener, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        try:
            start = {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
            await send(start)
            async for event in self._events:
                async with asyncio.timeout(_SLOWEST_READER):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
