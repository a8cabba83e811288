"""An answer that comes from elsewhere, as long as somebody listens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from codetune.errors import CodetuneError, DeadlineError, ServingError
from codetune.serving.engine import Finish, Piece
from codetune.serving.engines.listening import Events, heard

_log = logging.getLogger(__name__)


class RemoteGeneration:
    """Reads `pieces` ahead of its listener, in a task of its own; made in a running event loop."""

    def __init__(
        self,
        pieces: AsyncIterator[Piece],
        deadline: float,
        ended: Callable[[RemoteGeneration], None],
    ) -> None:
        self.started = time.monotonic()
        self.finish: Finish | None = None
        self.error: CodetuneError | None = None
        self.first: float | None = None
        self._pieces = 0  # with text; each is a token, as far as anybody here knows
        self._queue: Events = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._pump(pieces, deadline))
        self._task.add_done_callback(lambda _: ended(self))

    def __aiter__(self) -> AsyncIterator[Piece]:
        return heard(self._queue, self.cancel)

    @property
    def generated(self) -> int:
        return self._pieces if self.finish is None else self.finish.tokens

    @property
    def prompt_tokens(self) -> int | None:
        return None if self.finish is None else self.finish.prompt_tokens

    def cancel(self) -> None:
        """Nobody listens any more: the connection is closed, which frees the place there."""
        if not self._task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    def break_off(self, error: CodetuneError) -> None:
        """End it with an error; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._fail, error)
            self.cancel()

    def _fail(self, error: CodetuneError) -> None:
        self.error = error
        self._queue.put_nowait(error)

    async def _pump(self, pieces: AsyncIterator[Piece], deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline):
                async for piece in pieces:
                    if self.first is None:
                        self.first = time.monotonic() - self.started
                    self._pieces += bool(piece.text)
                    self.finish = piece.finish
                    self._queue.put_nowait(piece)
        except TimeoutError:
            self._fail(DeadlineError(f"The answer was not ready within {deadline:g} s."))
        except CodetuneError as error:
            self._fail(error)
        except Exception:  # whoever listens must hear of it, or waits for ever
            _log.exception("An answer from elsewhere could not be read.")
            self._fail(ServingError("The engine's answer could not be read."))
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()
