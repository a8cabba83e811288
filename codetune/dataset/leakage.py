"""Leakage: removing what training has seen while splitting, and measuring what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codetune.dataset.encoded import renderer_of
from codetune.dataset.heldout import Scored, candidate_windows, without_leaks
from codetune.dataset.instruct.diffs import unmarked
from codetune.dataset.split import Candidate
from codetune.dataset.windows import Windows, WindowSet, telling_windows
from codetune.models.prompts import Renderer
from codetune.models.tokens import CODE_STREAMS, Ids, TokenStore
from codetune.progress import Progress
from codetune.records import Document
from codetune.similarity import NearDuplicates, fingerprint, stored_signature
from codetune.tables import read_rows
from codetune.workers import Workers

if TYPE_CHECKING:
    from codetune.similarity import Signature

_PART = 500_000  # tokens that a process decodes at a time
_AROUND = 1500  # characters on both sides of a middle that hold all windows over it


class Marking:
    """Finds what training documents share with held-out ones; every process has one."""

    def __init__(self, similar: NearDuplicates, windows: WindowSet) -> None:
        self._similar, self._windows = similar, windows

    def __call__(self, documents: list[Document]) -> tuple[set[str], Any]:
        """Keys of near-duplicate candidates, and numbers of windows found."""
        keys: set[str] = set()
        for document in documents:
            keys |= {key for key, _ in self._similar.find_all(_signature(document))}
        return keys, self._windows.find(d.text.encode("utf-8", "replace") for d in documents)


def _signature(document: Document) -> Signature:
    """The document's own, if cleaning has computed it."""
    stored = document.signature
    return fingerprint(document.text) if stored is None else stored_signature(stored)


@dataclass
class Purged:
    """What stays held out: `scored` for the test, `validation`; `returned` goes to training."""

    scored: list[Scored] = field(default_factory=list)
    validation: list[Document] = field(default_factory=list)
    returned: list[Document] = field(default_factory=list)
    near_duplicates: int = 0
    runs_removed: int = 0


def purge(
    candidates: Sequence[Candidate],
    training: Iterator[list[Document]],
    threshold: float,
    workers: Workers,
    validated: Iterable[list[Document]] = (),
) -> Purged:
    """Drop held-out files with a near-duplicate in training, and held-out lines that stand there.

    A dropped file of the past goes back to training, which then is looked through again with
    it. The validation files count as seen, too: they choose the checkpoint. `validated` are those
    of the base's own runs: they may be validated on again, and nothing else.
    """
    windows = [candidate_windows(candidate) for candidate in candidates]
    tested = [w for w, c in zip(windows, candidates, strict=True) if c.split != "validation"]
    known = WindowSet(w.hashes for w in tested)
    similar = NearDuplicates(threshold)
    for number, candidate in enumerate(candidates):
        if candidate.whole:
            similar.add(str(number), _signature(candidate.document))
    marking = Marking(similar, known)
    dropped: set[int] = set()
    for keys, numbers in workers.map(Marking, (similar, known), training):
        dropped |= {int(key) for key in keys}
        known.mark(numbers)
    for batch in validated:
        keys, numbers = marking(batch)
        dropped |= {int(key) for key in keys if candidates[int(key)].split != "validation"}
        known.mark(numbers)
    result = Purged()
    waiting = sorted(dropped)
    while waiting:  # a file that goes back may resemble others that are held out
        candidate = candidates[waiting.pop()]
        if candidate.split == "time":
            continue
        result.returned.append(candidate.document)
        keys, numbers = marking([candidate.document])
        known.mark(numbers)
        more = {int(key) for key in keys} - dropped
        dropped |= more
        waiting += sorted(more)
    kept = [n for n in range(len(candidates)) if n not in dropped]
    for number in (n for n in kept if candidates[n].split == "validation"):
        result.validation.append(candidates[number].document)
        keys, numbers = marking([candidates[number].document])
        known.mark(numbers)
        dropped |= {int(key) for key in keys if candidates[int(key)].split != "validation"}
    result.near_duplicates = len(dropped)
    for number in kept:
        if number in dropped or candidates[number].split == "validation":
            continue
        scored, removed = without_leaks(candidates[number], windows[number], known)
        result.runs_removed += removed
        if scored.regions:
            result.scored.append(scored)
    return result


@dataclass(frozen=True)
class Leakage:
    """What an artifact's held-out rows share with the text in its token stores."""

    leaked: int  # rows with at least one window that training has seen
    rows: int
    windows: int  # held-out windows that were looked for
    documents: int  # training documents that were read
    ids: tuple[str, ...] = ()  # of leaked rows


class Looking:
    """Reads training text out of a token store and looks for held-out windows in it."""

    def __init__(self, base: Path, windows: WindowSet) -> None:
        self._renderer, self._windows = renderer_of(base), windows

    def __call__(self, part: tuple[Path, int, int]) -> tuple[int, Any]:
        """How many texts stand in examples first..last of a store, and the windows found."""
        path, first, last = part
        texts = list(decoded(TokenStore.open(path), self._renderer, first, last))
        return len(texts), self._windows.find(texts)


def measure(
    path: Path,
    base: Path,
    progress: Progress | None = None,
    workers: Workers | None = None,
    *,
    rows: Mapping[str, Windows] | None = None,
) -> Leakage:
    """Read what will be trained on out of the token stores, and look for held-out text in it.

    This trusts nothing of what the build did: tokens are decoded, the examples of a file put
    together again, and the rows of both held-out tables looked for. `base` is the folder of the
    tokenizer that the stores in `path` were made with; `rows` are the `held_out_windows`, if they
    have been read already.
    """
    rows = dict(held_out_windows(path)) if rows is None else rows
    known = WindowSet(windows.hashes for windows in rows.values())
    stores = [path / "tokens", path / "validation"]
    tokens = sum(TokenStore.open(store).tokens for store in stores)
    documents = 0
    workers = workers or Workers(1)
    with (progress or Progress()).task("Measuring leakage", total=tokens, unit="tokens") as task:
        parts = (part for store in stores for part in _parts(store))
        for texts, numbers in workers.map(Looking, (base, known), parts):
            known.mark(numbers)
            documents += texts
            task.advance(min(_PART, tokens - task.done))
    leaked = sorted(name for name, windows in rows.items() if known.marked(windows).any())
    return Leakage(len(leaked), len(rows), len(known), documents, tuple(leaked))


def stored_texts(path: Path, base: Path) -> Iterator[Document]:
    """The texts of a token store; `base` is the folder of the tokenizer that made it."""
    renderer, store = renderer_of(base), TokenStore.open(path)
    for _, first, last in _parts(path):
        for text in decoded(store, renderer, first, last):
            shown = text.decode("utf-8", "replace")
            yield Document("", "", "", "text", "unknown", shown, True, False)


def _parts(path: Path) -> Iterator[tuple[Path, int, int]]:
    """Runs of whole files of about `_PART` tokens."""
    store = TokenStore.open(path)
    documents, lengths = store.documents, store.lengths
    first = size = 0
    for number in range(len(store)):
        if size >= _PART and documents[number] != documents[number - 1]:
            yield path, first, number
            first, size = number, 0
        size += int(lengths[number])
    if first < len(store):
        yield path, first, len(store)


def held_out_windows(path: Path) -> Iterator[tuple[str, Windows]]:
    """The windows of every row of a dataset's held-out tables, by the row's name."""
    for row in read_rows(path / "heldout.parquet", ["id", "text"]):
        yield "text " + row["id"], telling_windows(row["text"])
    for row in read_rows(path / "heldout_fim.parquet", ["id", "prefix", "middle", "suffix"]):
        before, after = row["prefix"][-_AROUND:], row["suffix"][:_AROUND]
        middle = (len(before), len(before) + len(row["middle"]))
        yield "fim " + row["id"], telling_windows(before + row["middle"] + after, [middle])
    if (path / "heldout_sft.parquet").exists():
        for row in read_rows(path / "heldout_sft.parquet", ["id", "output"]):
            yield "sft " + row["id"], telling_windows(row["output"])


def decoded(store: TokenStore, renderer: Renderer, first: int, last: int) -> Iterator[bytes]:
    """The text of every file: its next-token pieces joined, then each of its FIM regions.

    Examples of other streams (conversations, sets mixed in) are texts of their own.
    """
    streams, documents = store.streams[first:last].tolist(), store.documents[first:last].tolist()
    names, gaps, file = store.stream_names, store.gaps[first:last].tolist(), None
    pieces: list[bytes] = []
    rows = zip(store.run(first, last), streams, gaps, documents, strict=True)
    for ids, stream, gap, document in rows:
        if pieces and document != file:
            yield b"".join(pieces)
            pieces = []
        file = document
        if names[stream] not in CODE_STREAMS:
            yield unmarked(renderer.decode_bytes(ids).decode("utf-8", "replace")).encode()
        elif gap or names[stream] == "fim":
            yield _fim_text(ids, renderer)
        else:
            pieces.append(_piece(ids, renderer))
    if pieces:
        yield b"".join(pieces)


def _piece(ids: Ids, renderer: Renderer) -> bytes:
    """A next-token example without its header, whose path ends with a line break."""
    fim = renderer.fim
    if fim is None or fim.file is None or fim.repo is None or fim.repo not in ids[:2]:
        return renderer.decode_bytes(ids)
    path = int((ids == fim.file).argmax()) + 1
    return renderer.decode_bytes(ids[path:]).partition(b"\n")[2]


def _fim_text(ids: Ids, renderer: Renderer) -> bytes:
    """The region of the file that a FIM example was made of."""
    fim = renderer.fim
    assert fim is not None
    one, two, three = (int((ids == m).argmax()) for m in (fim.prefix, fim.suffix, fim.middle))
    if two < one:  # suffix, prefix and middle, a mark before each
        before, behind, rest = ids[one + 1 : three], ids[two + 1 : one], ids[three + 1 :]
    else:  # in suffix-prefix-middle order prefix and middle stand together, behind the last mark
        before, behind, rest = ids[one + 1 : two], ids[two + 1 : three], ids[three + 1 :]
    return renderer.decode_bytes(np.concatenate([before, rest, behind]))
