"""How an answer under way is heard: piece by piece, until it ends, breaks off or is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from codetune.serving.engine import Piece

Events = asyncio.Queue[Piece | BaseException]


async def heard(events: Events, cancel: Callable[[], None]) -> AsyncIterator[Piece]:
    """The pieces of `events` up to the one that ends the answer; then, and whenever nobody
    listens any more, `cancel` is called.

    Raises:
        the error that stands in `events` instead of a piece.
    """
    try:
        while True:
            event = await events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.finish:
                return
    finally:
        cancel()
