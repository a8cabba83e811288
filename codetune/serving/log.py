"""What was answered, and what became of it in the editor: acceptance, kept for later training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from codetune.errors import RegistryError

if TYPE_CHECKING:
    from codetune.store.database import Database

_REMEMBERED = 10_000  # completions of a log without a database


@dataclass(frozen=True)
class Logged:
    """One completion; `texts` are kept only where the server's options say so."""

    id: str
    owner: str
    model: str
    dialect: str
    language: str | None = None
    path: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    texts: Mapping[str, str] = field(default_factory=dict)


class CompletionLog(Protocol):
    """Where completions and their events go; both calls block."""

    def completion(self, entry: Logged) -> None:
        """Keep a completion, so that events find it."""

    def event(
        self, owner: str, completion: str, kind: str, *, choice: int, details: Mapping[str, Any]
    ) -> None:
        """Keep what the editor said of a completion.

        Raises:
            RegistryError: `owner` was given no such completion.
        """


class MemoryLog:
    """The latest completions and their events, for a server without a database."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[Logged, list[dict[str, Any]]]] = OrderedDict()

    def completion(self, entry: Logged) -> None:
        with self._lock:
            self._kept[entry.id] = (entry, [])
            while len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)

    def event(
        self, owner: str, completion: str, kind: str, *, choice: int, details: Mapping[str, Any]
    ) -> None:
        with self._lock:
            kept = self._kept.get(completion)
            if kept is None or kept[0].owner != owner:
                raise _unknown(completion)
            kept[1].append({"kind": kind, "choice": choice, **details})

    def events(self, completion: str) -> list[dict[str, Any]]:
        """What was said of a completion, in its order."""
        with self._lock:
            return list(self._kept[completion][1])


class StoredLog:
    """Completions and events in the database."""

    def __init__(self, database: Database, *, keep_texts: bool = False) -> None:
        """`keep_texts`: also what stood around the cursor, and what was answered."""
        self._database, self._keep_texts = database, keep_texts

    def completion(self, entry: Logged) -> None:
        from codetune.store.completions import Completion

        details: dict[str, Any] = {
            "language": entry.language,
            "path": entry.path,
            "prompt_tokens": entry.prompt_tokens,
            "tokens": entry.tokens,
            "seconds": round(entry.seconds, 4),
        }
        if self._keep_texts:
            # PostgreSQL's JSON takes no null characters.
            details |= {name: text.replace("\0", "") for name, text in entry.texts.items()}
        with self._database.write() as session:
            session.add(
                Completion(
                    id=entry.id,
                    owner_id=entry.owner,
                    model=entry.model,
                    dialect=entry.dialect,
                    details=details,
                )
            )

    def event(
        self, owner: str, completion: str, kind: str, *, choice: int, details: Mapping[str, Any]
    ) -> None:
        from codetune.store.completions import Completion, CompletionEvent

        with self._database.write() as session:
            found = session.get(Completion, completion)
            if found is None or found.owner_id != owner:
                raise _unknown(completion)
            session.add(
                CompletionEvent(
                    completion_id=completion, kind=kind, choice=choice, details=dict(details)
                )
            )


def _unknown(completion: str) -> RegistryError:
    return RegistryError(f"There is no completion '{completion[:80]}'.")
