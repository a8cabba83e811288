"""mix.json: every stream of a dataset, its tokens, the share it was to have and the one it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Mixed:
    """What became of one set of the mix."""

    name: str
    wanted: float  # tokens
    share_wanted: float
    digest: str  # SHA-256 of the set's files
    rows: int = 0  # that could be read, without exact copies
    dropped: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)  # where rows stand that do not fit, and why
    shortened: Counter[str] = field(default_factory=Counter)
    examples: int = 0  # in training, each counted once
    tokens: int = 0
    epochs: float = 0.0  # how often these examples stand there
    held_examples: int = 0
    held_tokens: int = 0
    has_answers: bool = False  # whether there are conversations in it

    def row(self, total: int) -> dict[str, Any]:
        """The set's part of mix.json; `total` are the tokens of all streams."""
        return {
            "name": self.name,
            "examples": self.examples,
            "tokens": self.tokens,
            "share_wanted": round(self.share_wanted, 6),
            "share_reached": round(self.tokens / max(total, 1), 6),
            "epochs": round(self.epochs, 3),
            "source_digest": self.digest,
            "rows": self.rows,
            "dropped": dict(sorted(self.dropped.items())),
            "shortened": dict(sorted(self.shortened.items())),
            "held_out": {"examples": self.held_examples, "tokens": self.held_tokens},
        }


@dataclass(frozen=True)
class Own:
    """A stream of the repository's own; its share is the one among these streams."""

    name: str
    examples: int
    tokens: int
    share_wanted: float | None = None  # None: as much as there is
    source_digest: str = ""
    shortened: Mapping[str, int] | None = None  # None: no conversations


def manifest(own: Sequence[Own], mixed: Sequence[Mixed], seed: int) -> dict[str, Any]:
    """The content of mix.json."""
    total = sum(one.tokens for one in own) + sum(one.tokens for one in mixed)
    rest = 1 - sum(one.share_wanted for one in mixed)
    streams: list[Mapping[str, Any]] = [
        {
            "name": one.name,
            "examples": one.examples,
            "tokens": one.tokens,
            "share_wanted": None if one.share_wanted is None else round(one.share_wanted * rest, 6),
            "share_reached": round(one.tokens / max(total, 1), 6),
            "source_digest": one.source_digest,
            **({} if one.shortened is None else {"shortened": dict(one.shortened)}),
        }
        for one in own
        if one.tokens
    ]
    return {
        "seed": seed,
        "tokens": total,
        "streams": [*streams, *(one.row(total) for one in mixed)],
    }
