"""The scored rows: held-out text without what training has seen, and prompts taken from it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codetune.dataset.catalogue import seeded
from codetune.dataset.spans import line_span
from codetune.dataset.split import Candidate
from codetune.dataset.windows import Windows, WindowSet, telling_windows
from codetune.syntax.parse import Span, fim_spans
from codetune.tables import TableWriter

if TYPE_CHECKING:
    from codetune.dataset.config import DatasetOptions

Flags = npt.NDArray[np.bool_]

TEXT_COLUMNS = {
    "id": "string",
    "repo": "string",
    "path": "string",
    "language": "string",
    "split": "string",
    "context": "string",
    "text": "string",
    "bytes": "int64",
}
FIM_COLUMNS = {
    "id": "string",
    "repo": "string",
    "path": "string",
    "language": "string",
    "split": "string",
    "kind": "string",
    "prefix": "string",
    "suffix": "string",
    "middle": "string",
}
_CONTEXT = 16_384  # characters before a scored region that evaluation may read
_AROUND = 65_536  # characters before and behind a middle
_ROW = 8192  # bytes of a row: intervals come from many rows rather than from a few long ones
_FILE_SHARE = 16  # a file gives at most this part of the scored text
_SMALLEST = 60  # characters of a region that is worth scoring
_PER_ROUND = 4  # prompts of one file before the others had their turn
_LONGEST_MIDDLE = 300  # bytes: longer ones are never matched, and only cost evaluation time
_SHORTEST_MIDDLE = 6


@dataclass
class Scored:
    """A held-out file and what of it is scored, in characters; `windows` are the file's."""

    candidate: Candidate
    regions: list[tuple[int, int]]
    windows: Windows
    leaked: Flags


def candidate_windows(candidate: Candidate) -> Windows:
    """The telling windows over what may be scored of the candidate's file."""
    return telling_windows(candidate.document.text, candidate.regions)


def without_leaks(candidate: Candidate, windows: Windows, known: WindowSet) -> tuple[Scored, int]:
    """Take the lines that training has seen out of the regions; say how many runs there were."""
    leaked = known.marked(windows)
    runs = _leaked_lines(candidate.document.text, windows, leaked)
    text = candidate.document.text
    removed = 0
    regions = candidate.regions
    for first, last in runs:
        pieces = []
        for start, end in regions:
            if last <= start or end <= first:
                pieces.append((start, end))
                continue
            removed += 1
            pieces += [(start, min(first, end)), (max(last, start), end)]
        regions = pieces
    regions = [(a, b) for a, b in regions if b - a >= _SMALLEST and text[a:b].strip()]
    return Scored(candidate, regions, windows, leaked), removed


def _leaked_lines(text: str, windows: Windows, leaked: Flags) -> list[tuple[int, int]]:
    """Where the leaked windows stand: runs of whole lines, in characters."""
    runs: list[list[int]] = []  # in bytes, until few are left
    for start, end in zip(windows.starts[leaked], windows.ends[leaked], strict=True):
        if runs and start <= runs[-1][1]:
            runs[-1][1] = max(runs[-1][1], int(end))
        else:
            runs.append([int(start), int(end)])
    to_character = _characters(text)
    lines: list[tuple[int, int]] = []
    for run in runs:
        first = text.rfind("\n", 0, to_character(run[0])) + 1
        last = text.find("\n", to_character(run[1]) - 1) + 1 or len(text)
        if lines and first <= lines[-1][1]:
            lines[-1] = (lines[-1][0], max(lines[-1][1], last))
        else:
            lines.append((first, last))
    return lines


def write_text(path: Path, files: Sequence[Scored], options: DatasetOptions) -> dict[str, int]:
    """Write heldout.parquet up to the cap; what of each file is used is left in its regions."""
    left, used = options.heldout_bytes, set()
    share = max(left // _FILE_SHARE, _ROW)
    longest = min(_ROW, left)
    counts: Counter[str] = Counter()
    with TableWriter(path, TEXT_COLUMNS) as table:
        for scored in files:
            document, of_file, kept = scored.candidate.document, share, []
            for start, end in _rows(scored, longest, seeded(options.seed, "rows", document.id)):
                text = document.text[start:end]
                size = len(text.encode())
                if size > min(left, of_file):
                    continue
                left, of_file = left - size, of_file - size
                kept.append((start, end))
                used.add(document.id)
                row = _row(scored, start, end) | {
                    "context": document.text[max(0, start - _CONTEXT) : start],
                    "text": text,
                    "bytes": size,
                }
                table.write(row, size + _CONTEXT)
                counts |= {"bytes": counts["bytes"] + size}
                counts[f"{scored.candidate.split} bytes"] += size
                counts[f"{scored.candidate.split} rows"] += 1
            scored.regions = sorted(kept)
    return counts | {"files": len(used), "rows": table.count}


def write_fim(path: Path, files: Sequence[Scored], options: DatasetOptions) -> Counter[str]:
    """Write heldout_fim.parquet: a few prompts of every file, then more, up to the cap."""
    counts: Counter[str] = Counter()
    turns = [_Prompts(scored, options) for scored in files if scored.regions]
    with TableWriter(path, FIM_COLUMNS) as table:
        while turns and table.count < options.heldout_fim:
            turns = [turn for turn in turns if turn.more]
            for turn in turns:
                for span in turn.take(_PER_ROUND):
                    if table.count >= options.heldout_fim:
                        break
                    text = turn.scored.candidate.document.text
                    row = _row(turn.scored, span.start, span.end) | {
                        "kind": span.kind,
                        "prefix": text[max(0, span.start - _AROUND) : span.start],
                        "suffix": text[span.end : span.end + _AROUND],
                        "middle": text[span.start : span.end],
                    }
                    table.write(row, len(row["prefix"]) + len(row["suffix"]))
                    counts[span.kind] += 1
                counts["leaked"] += turn.leaked
                turn.leaked = 0
    return counts


class _Prompts:
    """Draws spans that do not overlap from one file's scored regions."""

    def __init__(self, scored: Scored, options: DatasetOptions) -> None:
        self.scored, self.leaked, self.more = scored, 0, True
        document = scored.candidate.document
        self._text = document.text
        self._random: Random = seeded(options.seed, "prompts", document.id)
        self._taken: list[tuple[int, int]] = []

    @cached_property
    def _syntax(self) -> list[Span]:
        """The scored regions' syntax spans; files that never have their turn are not parsed."""
        document = self.scored.candidate.document
        spans = fim_spans(
            document.text,
            document.language,
            minimum=_SHORTEST_MIDDLE * 2,
            maximum=_LONGEST_MIDDLE,
            within=self.scored.regions,
        )
        return [span for span in spans if self._inside(span)]

    @cached_property
    def _lines(self) -> npt.NDArray[np.int64]:
        breaks = [i for i, letter in enumerate(self._text) if letter == "\n"]
        return np.array([0, *(i + 1 for i in breaks if i + 1 < len(self._text))], np.int64)

    @cached_property
    def _ours(self) -> list[int]:
        """The numbers of the lines that start in a scored region."""
        places = enumerate(self._lines.tolist())
        return [i for i, at in places if self._inside(Span("", at, at))]

    def _inside(self, span: Span) -> bool:
        return any(a <= span.start and span.end <= b for a, b in self.scored.regions)

    def take(self, count: int) -> Iterator[Span]:
        """Up to `count` new spans; `more` is False when none is found any more."""
        found = 0
        for _ in range(count * 8):
            if found == count:
                return
            span = self._draw()
            if span is not None and self._usable(span):
                found += 1
                self._taken.append((span.start, span.end))
                yield span
        self.more = found > 0

    def _draw(self) -> Span | None:
        """Half syntax, half lines: an editor asks mostly for the rest of a line."""
        if self._syntax and self._random.random() < 0.5:
            span = self._random.choice(self._syntax)
            return Span(f"syntax:{span.kind}", span.start, span.end)
        if not self._ours:
            return None
        return line_span(self._text, self._lines, self._random.choice(self._ours), self._random)

    def _usable(self, span: Span) -> bool:
        middle = self._text[span.start : span.end]
        if not self._inside(span) or not any(map(str.isalnum, middle)):
            return False
        if not _SHORTEST_MIDDLE <= len(middle.encode()) <= _LONGEST_MIDDLE:
            return False
        if any(a < span.end and span.start < b for a, b in self._taken):
            return False
        start = len(self._text[: span.start].encode())
        end = start + len(middle.encode())
        windows = self.scored.windows
        near = (windows.starts < end) & (windows.ends > start) & self.scored.leaked
        self.leaked += bool(near.any())
        return not near.any()


def _rows(scored: Scored, longest: int, random: Random) -> list[tuple[int, int]]:
    """The regions in random order, those of more than `longest` bytes cut at line breaks."""
    rows, text = [], scored.candidate.document.text
    for start, end in scored.regions:
        at = start
        while at < end:
            most = at + _fitting(text[at : min(at + longest, end)], longest)
            cut = end if most == end else text.rfind("\n", at, most) + 1 or most
            rows.append((at, cut))
            at = cut
    random.shuffle(rows)
    return rows


def _fitting(text: str, size: int) -> int:
    """How many characters from the front make at most `size` bytes."""
    return len(text.encode()[:size].decode("utf-8", "ignore"))


def _row(scored: Scored, start: int, end: int) -> dict[str, Any]:
    document = scored.candidate.document
    name = f"{document.id}\n{start}\n{end}"
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:32],
        "repo": document.repo,
        "path": document.path,
        "language": document.language,
        "split": scored.candidate.split,
    }


def _characters(text: str) -> Any:
    """A function from offsets in UTF-8 bytes to offsets in characters."""
    if text.isascii():
        return lambda byte: byte
    data = text.encode("utf-8", "replace")
    return lambda byte: len(data[:byte].decode("utf-8", "ignore"))
