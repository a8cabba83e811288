"""What was answered, and what became of it in the editor: acceptance, kept for later training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from codetune.errors import NotFoundError
from codetune.serving.fates import STAYED, Fates, Remains, Tally

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
    kind: str = "unknown"  # of model: base, adapter, full or remote


class CompletionLog(Protocol):
    """Where completions and their events go; both calls block."""

    def completion(self, entry: Logged) -> None:
        """Keep a completion, so that events find it."""

    def event(
        self, owner: str, completion: str, kind: str, *, choice: int, details: Mapping[str, Any]
    ) -> None:
        """Keep what the editor said of a completion.

        Raises:
            NotFoundError: `owner` was given no such completion.
        """

    def fates(self) -> Mapping[str, Fates]:
        """What became of completions since the start, by the kind of model."""


class MemoryLog:
    """The latest completions and their events, for a server without a database."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[Logged, list[dict[str, Any]]]] = OrderedDict()
        self._tally = Tally()

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
            if all(event["kind"] != kind for event in kept[1]):
                self._tally.event(kept[0].kind, kind)
            kept[1].append({"kind": kind, "choice": choice, **details})

    def fates(self) -> Mapping[str, Fates]:
        return self._tally.read()

    def events(self, completion: str) -> list[dict[str, Any]]:
        """What was said of a completion, in its order."""
        with self._lock:
            return list(self._kept[completion][1])


class StoredLog:
    """Completions and events in the database."""

    def __init__(
        self, database: Database, *, keep_texts: bool = False, remains: Remains | None = None
    ) -> None:
        """`keep_texts`: also what stood around the cursor, and what was answered."""
        self._database, self._keep_texts = database, keep_texts
        self._tally, self._remains = Tally(), remains or Remains()

    def completion(self, entry: Logged) -> None:
        from codetune.store.completions import Completion, CompletionEvent

        prefix, suffix = entry.texts.get("prefix", ""), entry.texts.get("suffix", "")
        stayed = self._remains.look(entry.owner, entry.path, prefix + suffix)
        details: dict[str, Any] = {
            "language": entry.language,
            "path": entry.path,
            "prompt_tokens": entry.prompt_tokens,
            "tokens": entry.tokens,
            "seconds": round(entry.seconds, 4),
            "kind": entry.kind,
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
            for one in stayed:
                found = {"edit_ratio": round(one.ratio, 4), "seconds": round(one.seconds)}
                session.add(
                    CompletionEvent(completion_id=one.completion, kind=STAYED, details=found)
                )
        for one in stayed:
            self._tally.edited(one.kind, one.ratio)
        text = entry.texts.get("text", "")
        self._remains.show(entry.id, entry.owner, entry.path, entry.kind, prefix, text)

    def event(
        self, owner: str, completion: str, kind: str, *, choice: int, details: Mapping[str, Any]
    ) -> None:
        from sqlalchemy import select

        from codetune.store.completions import Completion, CompletionEvent

        with self._database.write() as session:
            found = session.get(Completion, completion)
            if found is None or found.owner_id != owner:
                raise _unknown(completion)
            told = select(CompletionEvent.id).where(
                CompletionEvent.completion_id == completion, CompletionEvent.kind == kind
            )
            is_new = session.scalar(told.limit(1)) is None
            session.add(
                CompletionEvent(
                    completion_id=completion, kind=kind, choice=choice, details=dict(details)
                )
            )
        if is_new:
            self._tally.event(str(found.details.get("kind", "unknown")), kind)
        if kind == "select":
            self._remains.accept(completion, line=details.get("select_kind") == "line")

    def fates(self) -> Mapping[str, Fates]:
        return self._tally.read()


def _unknown(completion: str) -> NotFoundError:
    return NotFoundError(f"There is no completion '{completion[:80]}'.")
