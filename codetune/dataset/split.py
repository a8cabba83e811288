"""What is trained on and what is held out.

By time: the training pool is the tree at the cut-off; new files, and regions added to files that
existed, are scored. By file: a share of the past's files is never trained on; they serve early
stopping, and the score where there is no future, or too little of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codetune.dataset.added import added_regions
from codetune.dataset.catalogue import Entry, read_documents, shuffled
from codetune.errors import DatasetError
from codetune.records import Document
from codetune.syntax.languages import IS_CODE, IS_PROSE

if TYPE_CHECKING:
    from codetune.dataset.config import DatasetOptions

_LARGEST_FILE = 64 * 1024  # bytes of a file that is held out: one file must not be all there is
_SMALLEST_FILE = 200
_SMALL = 16 * 1024  # a small repository holds out up to this much, beyond the usual share
_SMALL_SHARE = 0.15  # … if that is at most this share of it
_FEWEST_FILES = 3  # of code; with fewer, other files are held out, too
_FUTURE_READ = 16  # × the cap: bytes of changed files that are looked through for added code
_LEAST_TRAINING = 2048  # bytes


@dataclass
class Candidate:
    """A document of which `regions` (characters) may be scored."""

    document: Document
    split: str  # "time" | "file" | "validation"
    regions: list[tuple[int, int]]
    whole: bool  # the file itself must have no near-duplicate in the training text

    @property
    def size(self) -> int:
        """Characters that may be scored."""
        return sum(end - start for start, end in self.regions)


@dataclass
class Split:
    """Rows of documents.parquet to train on, and what is held out from them."""

    training: list[int]
    training_bytes: int
    candidates: list[Candidate] = field(default_factory=list)
    notes: dict[str, int | str] = field(default_factory=dict)


def split(documents: Path, entries: Sequence[Entry], options: DatasetOptions) -> Split:
    """Choose what to hold out.

    Raises:
        DatasetError: there is not enough text to hold some out and train on the rest.
    """
    wanted = [entry for entry in entries if _wanted(entry, options)]
    past = [entry for entry in wanted if entry.in_past]
    first = _first_choice(past, options)
    first = first if len(first) >= _FEWEST_FILES else past
    total = sum(entry.size for entry in past)
    future = _future(documents, entries, options)
    found = sum(candidate.size for candidate in future)
    validation, tests = _by_file(first, total, options, scored=found < options.minimum_future)
    held = {entry.row for entry in (*validation, *tests)}
    training = [entry for entry in past if entry.row not in held]
    size = sum(entry.size for entry in training)
    if size < _LEAST_TRAINING or not (future or tests):
        raise _too_little(total, len(past), size)
    splits = {entry.row: "validation" for entry in validation}
    splits |= {entry.row: "file" for entry in tests}
    by_file = [
        Candidate(document, splits[row], [(0, len(document.text))], whole=True)
        for row, document in zip(sorted(held), read_documents(documents, sorted(held)), strict=True)
    ]
    notes: dict[str, int | str] = {
        "past_files": len(past),
        "past_bytes": total,
        "future_files": sum(1 for e in wanted if e.in_present and not e.in_past),
        "held_out_files_of_the_past": len(held),
    }
    return Split([entry.row for entry in training], size, future + by_file, notes)


def _wanted(entry: Entry, options: DatasetOptions) -> bool:
    """Whether files of this kind are trained on and scored; data and markup always are."""
    if entry.language in IS_CODE:
        return options.train_on_code
    return options.train_on_docs or entry.language not in IS_PROSE


def _first_choice(entries: Sequence[Entry], options: DatasetOptions) -> list[Entry]:
    """What is scored if there is enough of it: code, or prose where no code is trained on."""
    kind = IS_CODE if options.train_on_code else IS_PROSE
    return [entry for entry in entries if entry.language in kind]


def _future(documents: Path, entries: Sequence[Entry], options: DatasetOptions) -> list[Candidate]:
    """Code added after the cut-off: about twice what will be scored, in random order."""
    present = [entry for entry in entries if entry.in_present and not entry.in_past]
    present = [entry for entry in present if _wanted(entry, options)]
    first = _first_choice(present, options) or present
    past = {(entry.repo, entry.path): entry for entry in entries if entry.in_past}
    chosen: list[Entry] = []
    olds: dict[int, Entry] = {}
    room = 2 * options.heldout_bytes
    to_read = _FUTURE_READ * options.heldout_bytes
    for entry in shuffled(first, options.seed, "future"):
        old = past.get((entry.repo, entry.previous_path or ""))
        if entry.previous_path is not None and old is None:
            continue  # its past version was dropped while cleaning: what is new, is not known
        if old is None and room > 0 and entry.size >= _SMALLEST_FILE:
            chosen.append(entry)
            room -= min(entry.size, _LARGEST_FILE)
        elif old is not None and to_read > 0:
            chosen.append(entry)
            olds[entry.row] = old
            to_read -= entry.size + old.size
    rows = sorted({entry.row for entry in (*chosen, *olds.values())})
    texts = dict(zip(rows, read_documents(documents, rows), strict=True))
    candidates = []
    for entry in chosen:
        document = texts[entry.row]
        if (old := olds.get(entry.row)) is None:
            candidates.append(Candidate(document, "time", [(0, len(document.text))], whole=True))
            continue
        lines = options.minimum_region
        regions = added_regions(texts[old.row].text, document.text, minimum_lines=lines)
        if regions:
            candidates.append(Candidate(document, "time", regions, whole=False))
    return candidates


def _by_file(
    code: Sequence[Entry], total: int, options: DatasetOptions, *, scored: bool
) -> tuple[list[Entry], list[Entry]]:
    """Files of the past for early stopping and, if they are `scored`, for the test."""
    share = options.holdout_share
    small = min(total * _SMALL_SHARE, _SMALL)
    wanted = min(options.heldout_bytes, max(total * share, small)) if scored else 0
    stopping = min(options.validation_bytes, max(total * share / 2, small / 2))
    average = total / max(len(code), _FEWEST_FILES)
    largest = min(_LARGEST_FILE, max(total / 5, average * 1.2))
    order = shuffled(code, options.seed, "held out")
    fitting = [entry for entry in order if _SMALLEST_FILE <= entry.size <= largest]
    # Of very large files the smallest are taken, if others stay.
    fitting = fitting or sorted(order, key=lambda entry: entry.size)[: len(order) // _FEWEST_FILES]
    tests = _take(fitting, wanted)
    return _take(fitting[len(tests) :], stopping), tests


def _take(entries: Sequence[Entry], size: float) -> list[Entry]:
    """From the front until `size` bytes are reached; none for no bytes."""
    taken: list[Entry] = []
    for entry in entries:
        if size <= 0:
            break
        taken.append(entry)
        size -= entry.size
    return taken


def _too_little(total: int, files: int, training: int) -> DatasetError:
    return DatasetError(
        f"There is not enough text to hold some out and train on the rest: {files} files with "
        f"{total} bytes ({training} bytes would be left to train on).",
        advice="Name a larger repository, or raise what cleaning keeps "
        "(codetune clean … lists what was dropped and why).",
    )
