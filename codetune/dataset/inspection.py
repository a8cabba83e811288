"""Training data looked at by people: what a file holds, and how a row reaches the model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codetune.artifacts import open_artifact
from codetune.dataset.conversations import Conversations, Encoded, Flags, Refused
from codetune.dataset.review import EDIT_THE_SET, Decision, instruction_row
from codetune.dataset.table import read_examples
from codetune.errors import DatasetError
from codetune.models.prompts import Ids, Renderer
from codetune.models.tokens import CODE_STREAMS, TokenStore
from codetune.records import Example


@dataclass
class Census:
    """What a set holds; with `conversations`, also in tokens, and what would be refused."""

    conversations: Conversations | None = None
    examples: int = 0
    texts: int = 0
    answers: int = 0
    tokens: int = 0
    learned: int = 0  # tokens that carry loss
    shortened: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, example: Example) -> None:
        self.examples += 1
        self.texts += example.text is not None
        self.answers += sum(m["role"] == "assistant" for m in example.messages or ())
        if self.conversations is None:
            return
        if example.text is not None:
            count = len(self.conversations.renderer.plain(example.text)) + 1
            self.tokens += count
            self.learned += count
            return
        done = self.conversations.encode(example)
        if isinstance(done, Refused):
            self.refused[done.reason] += 1
            return
        self.tokens += len(done.ids)
        self.learned += int(done.loss.sum())
        self.shortened += bool(done.turns_cut or done.characters_cut)

    def row(self) -> dict[str, Any]:
        """The counts for JSON and for people."""
        counts = {"examples": self.examples, "texts": self.texts, "answers": self.answers}
        if self.conversations is None:
            return counts
        return counts | {
            "tokens": self.tokens,
            "learned_tokens": self.learned,
            "shortened": self.shortened,
            "refused": dict(self.refused.most_common()),
        }


@dataclass(frozen=True)
class View:
    """One example as the model reads it: ids, and which of them carry loss."""

    ids: Ids
    loss: Flags
    note: str = ""

    def tokens(self, renderer: Renderer) -> list[dict[str, Any]]:
        """Every token with its text and whether it is learned."""
        return [
            {"id": int(i), "text": renderer.decode([int(i)], keep_control=True), "loss": bool(flag)}
            for i, flag in zip(self.ids, self.loss, strict=True)
        ]

    def runs(self, renderer: Renderer) -> Iterator[tuple[str, bool]]:
        """The text in runs of tokens that are all learned, or all not."""
        borders = np.flatnonzero(np.diff(self.loss.astype(np.int8))) + 1
        for start, end in zip([0, *borders], [*borders, len(self.ids)], strict=True):
            if end > start:
                part = self.ids[start:end].tolist()
                yield renderer.decode(part, keep_control=True), bool(self.loss[start])


def view_example(example: Example, conversations: Conversations) -> View:
    """An example of a set, rendered.

    Raises:
        DatasetError: it cannot be trained on; the message says why.
    """
    renderer = conversations.renderer
    if example.text is not None:
        ids = np.array(renderer.ntp(example.text, ends_file=True), np.uint32)
        start = len(renderer.start(None, None))
        pieces = -(-len(ids) // conversations.window)
        note = f"cut into about {pieces} pieces of the window" if pieces > 1 else ""
        return View(ids, np.arange(len(ids)) >= start, note)
    done = conversations.encode(example)
    if isinstance(done, Refused):
        where = f"{example.source.path}, row {example.source.span[0]}"
        raise DatasetError(
            f"{where} is not trained on: {done.reason}.",
            advice="A longer window (--window) or another template (--template) may help.",
        )
    return View(done.ids, done.loss, _shortening(done))


def view_stored(dataset: Path, number: int, base: Path) -> tuple[View, str]:
    """Example `number` (1-based) of a dataset built for `base`, and its stream's name.

    Raises:
        DatasetError: there are not so many, or it was built for another tokenizer.
        ArtifactError: the folder holds no dataset.
    """
    if open_artifact(dataset).inputs.get("tokenizer") != Renderer.digest_of(base):
        raise DatasetError(
            f"{dataset} was built for another base than {base.name}.",
            advice="Name the one it was built for: --base.",
        )
    store = TokenStore.open(dataset / "tokens")
    if not 1 <= number <= len(store):
        raise DatasetError(f"{dataset} has examples 1 to {len(store)}, and no {number}.")
    ids = np.asarray(store[number - 1][0], np.uint32)
    name = store.stream_names[int(store.streams[number - 1])]
    return View(ids, store.loss(number - 1)), name


def sample_examples(dataset: Path, count: int, seed: int, stream: str | None) -> list[Example]:
    """`count` examples of a built dataset in an order that the seed decides, each once.

    Raises:
        DatasetError: the folder is no dataset, or has no such stream.
    """
    table = _examples_of(dataset)
    lots: dict[str, bytes] = {}
    streams: set[str] = set()
    for example in read_examples(table):
        streams.add(example.stream)
        if stream in (None, example.stream):
            lots[example.id] = hashlib.sha256(f"{seed} {example.id}".encode()).digest()
    if not lots:
        raise _no_stream(dataset, stream, streams)
    chosen = sorted(lots, key=lambda name: lots[name])[:count]
    found: dict[str, Example] = {}
    for example in read_examples(table):
        if example.id in chosen and example.id not in found:
            found[example.id] = example
    return [found[name] for name in chosen]


def examples_of(dataset: Path, stream: str) -> Iterator[Example]:
    """The examples of a built dataset's stream in order; memory does not grow with them.

    Raises:
        DatasetError: the folder is no dataset, or has no such stream.
    """
    streams: set[str] = set()
    for example in read_examples(_examples_of(dataset)):
        streams.add(example.stream)
        if example.stream == stream:
            yield example
    if stream not in streams:
        raise _no_stream(dataset, stream, streams)


def _no_stream(dataset: Path, stream: str | None, streams: set[str]) -> DatasetError:
    return DatasetError(
        f"{dataset} has no stream '{stream}'.", advice=f"Known: {', '.join(sorted(streams))}."
    )


def check_decisions(decisions: Sequence[Decision], dataset: Path) -> None:
    """See to it that building could honour every decision about `dataset`.

    Raises:
        DatasetError: it could not; the row and the field are named.
    """
    edits = {one.id: one for one in decisions if one.verdict == "edit"}
    unknown = {one.id: one.where for one in reversed(decisions)}
    texts: dict[str, str] = {}
    for example in read_examples(_examples_of(dataset)):
        unknown.pop(example.id, None)
        if edit := edits.get(example.id):
            _check_edit(edit, example, texts)
    for name, where in reversed(unknown.items()):
        raise DatasetError(
            f"{where}, field 'id': {dataset} has no example {name!r}.",
            advice="Name the dataset that these rows were exported from.",
        )


def _check_edit(edit: Decision, example: Example, texts: dict[str, str]) -> None:
    """`texts` are those of the edited examples that came before."""
    given = "messages" if edit.text is None else "text"
    where = f"{edit.where}, field '{given}'"
    if example.stream in CODE_STREAMS:
        raise DatasetError(
            f"{where}: {edit.id} is a part of the file {example.source.path}, "
            "which cannot be edited here.",
            advice="Change the file in the repository, or give the verdict keep or drop.",
        )
    wanted = "messages" if example.messages is not None else "text"
    if getattr(edit, wanted) is None:
        raise DatasetError(f"{where}: an edit of {edit.id} needs the field '{wanted}'.")
    if example.stream == "sft" and edit.messages is not None:
        instruction_row(edit.messages, edit.where)
    if example.text is not None and texts.setdefault(edit.id, example.text) != example.text:
        raise DatasetError(
            f"{where}: {edit.id} is one of several pieces of a text that is longer than the "
            "window, and would replace them all.",
            advice=EDIT_THE_SET,
        )


def _examples_of(dataset: Path) -> Path:
    table = dataset / "examples.parquet"
    if not table.is_file():
        raise DatasetError(
            f"{dataset} is not a built dataset.",
            advice="`codetune build SOURCE` prints the folder as Artifact.",
        )
    return table


def _shortening(done: Encoded) -> str:
    parts: Sequence[tuple[int, str]] = (
        (done.turns_cut, "messages left out (the oldest)"),
        (done.characters_cut, "characters taken out of the longest message"),
    )
    return ", ".join(f"{n} {what}" for n, what in parts if n)
