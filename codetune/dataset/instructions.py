"""The stream of instructions: made from what may be trained on, tokenised, and held out.

Held-out instructions come from held-out files alone, and their answers stand in what is left of
those after purging; they are looked for in the training tokens like every other held-out row.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.dataset.catalogue import batches, read_documents
from codetune.dataset.conversations import Conversations, Encoded, Refused
from codetune.dataset.instruct.make import InstructionMaker, Made, read_pairs
from codetune.dataset.instruct.output import InstructionFiles
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.leakage import Purged
from codetune.dataset.review import Review, instruction_row
from codetune.dataset.table import ExamplesFile, columns_of, pack_rows
from codetune.dataset.windows import WindowSet, telling_windows
from codetune.models.prompts import Renderer
from codetune.models.tokens import TokenWriter
from codetune.progress import Progress
from codetune.records import Document, Example
from codetune.tables import TableWriter
from codetune.workers import Workers

if TYPE_CHECKING:
    from codetune.dataset.config import DatasetOptions
    from codetune.dataset.recipe import Recipe
    from codetune.dataset.split import Split

DROPPED = "a review dropped it"
# The excerpt stands around what the diff changes: the middle, which a shorter one lacks.
CUT_CHANGE = "its change would be cut out of the input"
CHOSEN = frozenset({DROPPED, CUT_CHANGE})  # reasons that are no fault of the window or the template
_BATCH = 500_000  # characters that a process gets at a time
_TRAINING, _HELD = "sft.jsonl", "heldout_sft.parquet"
HELD_COLUMNS = {
    "id": "string",
    "repo": "string",
    "path": "string",
    "language": "string",
    "split": "string",
    "kind": "string",
    "instruction": "string",
    "input": "string",
    "output": "string",
}


@dataclass
class EncodedPairs:
    """Tokenised pairs: rows of the table, each one's ids and which of them carry loss."""

    rows: bytes
    ids: list[Any]
    loss: list[Any]
    refused: Counter[str] = field(default_factory=Counter)
    shortened: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)


class Encoding:
    """Tokenises batches of pairs; every process has one."""

    def __init__(self, base: Path, recipe: Recipe, review: Review) -> None:
        renderer = Renderer.from_folder(base).with_template(recipe.template)
        self._conversations = Conversations(renderer, recipe.window)
        self._review = review

    def __call__(self, pairs: list[Pair]) -> EncodedPairs:
        kept: list[Example] = []
        made = EncodedPairs(b"", [], [])
        for pair in pairs:
            example = self._review.apply(pair.example())
            if example is None:
                made.refused[DROPPED] += 1
                continue
            found = _whole_enough(pair, example, self._conversations.encode(example))
            if isinstance(found, Refused):
                made.refused[found.reason] += 1
                continue
            kept.append(replace(example, messages=tuple(dict(turn) for turn in found.messages)))
            made.ids.append(found.ids)
            made.loss.append(found.loss)
            made.shortened += found.shortened
            made.kinds[example.kind] += 1
        made.rows = pack_rows(columns_of(kept, [len(ids) for ids in made.ids]))
        return made


def _whole_enough(pair: Pair, example: Example, found: Encoded | Refused) -> Encoded | Refused:
    """What was found, unless the window took what the answer is about out of the prompt."""
    if isinstance(found, Refused) or not found.characters_cut:
        return found
    if pair.kind == "commit":
        return Refused(CUT_CHANGE)
    asked = "\n".join(turn["content"] for turn in example.messages or ())
    kept = "\n".join(turn["content"] for turn in found.messages)
    if pair.instruction in asked and pair.instruction not in kept:
        return Refused("the question does not fit the window")
    return found


class Instructions:
    """The instructions of one dataset, from documents to tokens."""

    def __init__(
        self,
        documents: Path,
        options: DatasetOptions,
        recipe: Recipe,
        workers: Workers,
        review: Review,
        progress: Progress,
    ) -> None:
        self._documents, self._options, self._review = documents, options, review
        self._progress = progress
        self._recipe, self._workers = recipe, workers

    def write(self, folder: Path, parts: Split, purged: Purged) -> Made:
        """Make `sft.jsonl`, `sft_readable.json` and `heldout_sft.parquet`."""

        def training() -> Iterable[list[Document]]:
            yield from batches(read_documents(self._documents, parts.training), _BATCH)
            yield from batches(iter(purged.returned), _BATCH)

        changes = self._documents.with_name("commits.parquet")
        made = self._maker(training, self._workers, changes, _held_out(purged)).write(folder)
        self._hold_out(folder, purged)
        return made

    def _maker(self, documents: Any, workers: Workers, changes: Path | None = None,
               held_out: WindowSet | None = None) -> InstructionMaker:  # fmt: skip
        options, seed = self._options.instructions, self._options.seed
        commit = self._recipe.commit
        return InstructionMaker(
            documents, seed, commit, options, workers, changes, held_out, self._progress
        )

    def _hold_out(self, folder: Path, purged: Purged) -> None:
        """Write the held-out rows, some of each kind, in an order that the seed decides."""
        regions = {s.candidate.document.id: s.regions for s in purged.scored}
        splits = {s.candidate.document.id: s.candidate.split for s in purged.scored}
        documents = [scored.candidate.document for scored in purged.scored]
        maker = self._maker(lambda: batches(iter(documents), _BATCH), Workers(1))
        usable: list[Pair] = []
        for pair in maker.pairs(folder):
            start, end = pair.span
            inside = regions[pair.document]
            if any(a <= start and end <= b for a, b in inside):
                usable.append(pair)
        with TableWriter(folder / _HELD, HELD_COLUMNS) as table:
            for pair in self._some(usable, self._options.instructions.heldout):
                row = {n: getattr(pair, n) for n in HELD_COLUMNS if n != "split"}
                row["split"] = splits[pair.document]
                table.write(row, pair.size)

    def _some(self, pairs: Sequence[Pair], most: int) -> list[Pair]:
        """Up to `most`, the kinds taken in turn."""
        turns: dict[str, int] = Counter()
        ranked: list[tuple[int, bytes, Pair]] = []
        name = f"{self._options.seed}\nheld out\n"
        for pair in sorted(pairs, key=lambda p: hashlib.sha256((name + p.id).encode()).digest()):
            ranked.append((turns[pair.kind], pair.digest, pair))
            turns[pair.kind] += 1
        ranked.sort(key=lambda entry: entry[:2])
        return [pair for *_, pair in ranked[:most]]

    def encode(
        self, base: Path, pairs: Iterator[Pair], tokens: TokenWriter, table: ExamplesFile | None,
        first: int,
    ) -> tuple[Counter[str], Counter[str]]:  # fmt: skip
        """Tokenise pairs as documents from number `first` on; the counts, and why some were not.

        The counts are "examples sft", "tokens sft", "shortened <what>" and "kind <kind>".
        """
        counts: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        arguments = (base, self._recipe, self._review)
        for made in self._workers.map(Encoding, arguments, _runs(pairs)):
            for ids, loss in zip(made.ids, made.loss, strict=True):
                number = first + counts["examples sft"]
                tokens.append(ids, stream="sft", document=number, loss=loss)
                counts["examples sft"] += 1
                counts["tokens sft"] += len(ids)
            if table is not None:
                table.add(made.rows)
            refused += made.refused
            counts.update({f"shortened {what}": n for what, n in made.shortened.items()})
            counts.update({f"kind {kind}": n for kind, n in made.kinds.items()})
        return counts, refused

    def training(self, folder: Path) -> Iterator[Pair]:
        """The pairs that `write` chose for training."""
        return read_pairs(folder / _TRAINING)

    def finish(self, folder: Path) -> None:
        """Write the files for people anew where a review decided, once the pairs are tokenised.

        Before that they hold the pairs as they were made: a decision is about these.
        """
        if not self._review.decisions:
            return
        made = (folder / _TRAINING).rename(folder / ".made.jsonl")
        with InstructionFiles(folder) as files:
            for pair in read_pairs(made):
                if (row := _reviewed(pair, self._review)) is not None:
                    files.add(row)
        made.unlink()

    def validation(self, folder: Path, purged: Purged) -> Iterator[Pair]:
        """Pairs of the files that are held out for early stopping."""
        documents = purged.validation
        maker = self._maker(lambda: batches(iter(documents), _BATCH), Workers(1))
        yield from self._some(list(maker.pairs(folder)), self._options.instructions.heldout)


def _reviewed(pair: Pair, review: Review) -> dict[str, Any] | None:
    """The row of `sft.jsonl` as it was decided; None if it was dropped."""
    example = pair.example()
    decided = review.apply(example)
    if decided is None:
        return None
    if decided is example or decided.messages is None:
        return pair.row()
    question = f"{pair.instruction}\n\n"
    turns = []
    for turn in decided.messages:
        kept, text = turn["content"].startswith(question), turn["content"]
        turns.append(turn | {"input": text.removeprefix(question) if kept else pair.input})
    return pair.row() | instruction_row(turns, review.decisions[pair.id].where)


def _held_out(purged: Purged) -> WindowSet:
    """What no training text may hold: unseen windows of scored files, and validation files'."""
    scored = [one.windows.hashes[~one.leaked] for one in purged.scored]
    validation = [telling_windows(document.text).hashes for document in purged.validation]
    return WindowSet([*scored, *validation])


def _runs(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    """Pairs in runs of about `_BATCH` characters."""
    run: list[Pair] = []
    length = 0
    for pair in pairs:
        run.append(pair)
        length += pair.size
        if length >= _BATCH:
            yield run
            run, length = [], 0
    if run:
        yield run
