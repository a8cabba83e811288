"""The choice among all candidates: no duplicates, no boilerplate, no kind beyond its limits.

Candidates wait on disk; memory holds 48 bytes for each.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from codetune.dataset.instruct.config import InstructionOptions
from codetune.dataset.instruct.diffs import unmarked
from codetune.dataset.instruct.pairs import KINDS, Pair
from codetune.dataset.windows import WindowSet

# Of a kind that takes more than its share, so many are kept all the same: a repository without
# documentation still teaches from its commits.
_ALWAYS_KEPT = 100


@dataclass(frozen=True, slots=True)
class _Candidate:
    offset: int  # of its line in the file
    size: int  # characters
    answer: bytes
    rank: bytes  # the smallest are chosen


class Pool:
    """Candidates in a temporary file, which is gone when the `with` block ends."""

    def __init__(self, path: Path, seed: int, options: InstructionOptions) -> None:
        self._path, self._seed, self._options = path, seed, options
        self._file = path.open("w+b")
        self._end = 0
        self._seen: set[bytes] = set()
        self._answers: dict[str, Counter[bytes]] = {kind: Counter() for kind in KINDS}
        self._candidates: dict[str, list[_Candidate]] = {kind: [] for kind in KINDS}
        self.dropped: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, pair: Pair) -> None:
        """Let a pair wait for the choice."""
        if pair.digest in self._seen:
            self.dropped["duplicate"] += 1
            return
        self._seen.add(pair.digest)
        row = pair.row() | {"document": pair.document}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        rank = hashlib.sha256(f"{self._seed}\n{pair.id}".encode()).digest()[:8]
        answer = pair.answer_digest
        self._answers[pair.kind][answer] += 1
        self._candidates[pair.kind].append(_Candidate(self._end, pair.size, answer, rank))
        self._file.seek(self._end)
        self._file.write(line)
        self._end += len(line)

    def chosen(self, held_out: WindowSet | None = None) -> Iterator[Pair]:
        """The pairs kind by kind, each in the order in which they came, none of held-out text."""
        kept = {kind: self._sound(kind, held_out) for kind in KINDS}
        sizes = {kind: sum(one.size for one in found) for kind, found in kept.items()}
        share = self._options.most_share
        for kind, found in kept.items():
            others = sum(sizes.values()) - sizes[kind]
            for one in self._within(found, others * share / (1 - share) if share < 1 else None):
                yield self._at(one)

    def _sound(self, kind: str, held_out: WindowSet | None) -> list[_Candidate]:
        """A kind's candidates without boilerplate and held-out text, the first of their rank."""
        answers = self._answers[kind]
        kept: list[_Candidate] = []
        for candidate in sorted(self._candidates[kind], key=lambda one: one.rank):
            if answers[candidate.answer] > self._options.most_repeats:
                self.dropped["boilerplate"] += 1
            elif len(kept) >= self._options.most_of_a_kind:
                self.dropped["over_the_limit"] += 1
            elif held_out is not None and len(held_out.find([_text(self._at(candidate))])):
                self.dropped["held_out"] += 1
            else:
                kept.append(candidate)
        return kept

    def _within(self, found: list[_Candidate], most: float | None) -> list[_Candidate]:
        """As many of `found` as have `most` characters together, in the order of the file.

        Commits would else be three quarters of all instructions' text, and teach a model that is
        asked anything to answer with a diff.
        """
        size = 0
        for number, one in enumerate(found):
            size += one.size
            if most is not None and number >= _ALWAYS_KEPT and size > most:
                self.dropped["over_the_share"] += len(found) - number
                found = found[:number]
                break
        return sorted(found, key=lambda one: one.offset)

    def _at(self, candidate: _Candidate) -> Pair:
        self._file.seek(candidate.offset)
        return Pair.of_row(json.loads(self._file.readline()))


def _text(pair: Pair) -> bytes:
    """All that training would see; a diff without its marks, so that its lines are the code's."""
    return "\n".join(map(unmarked, (pair.input, pair.output))).encode()
