"""Sets of training data beside the repository's, each with its share of the tokens.

A set is read more than once, so that its size does not matter: first to know its rows (exact
copies are left out, over all sets), then to encode those that the lot chose. A chosen row is
left out when it holds text of the repository's held-out part, when its answer (or text) is
nearly one that was taken before, or when it does not fit. Every set keeps a small part back for
a held-out loss of its own, and all of them do before any is trained on.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np

from codetune.dataset.chunks import chunk_borders
from codetune.dataset.config import DatasetOptions, MixedSet
from codetune.dataset.conversations import Conversations, Refused
from codetune.dataset.encoded import Encoder
from codetune.dataset.formats import Problems, digest_of_set, left_out_of, not_read, read_set
from codetune.dataset.manifest import Mixed
from codetune.dataset.refusals import SHOWN, check_refused
from codetune.dataset.review import EDIT_THE_SET, Review
from codetune.dataset.spool import Catalogue, Piece, Rows, Spool
from codetune.dataset.table import ExamplesFile
from codetune.dataset.windows import WindowSet
from codetune.errors import DatasetError
from codetune.models.tokens import TokenWriter
from codetune.progress import Progress
from codetune.records import Example
from codetune.similarity import NearDuplicates, fingerprint

_SAMPLE = 200  # examples that tell how many tokens a character makes
_SPARE = 1.1  # × the wanted tokens are encoded at first: some rows are left out
_HELD_SHARE = 0.1  # of what a set adds to the plain text, at most
_HELD_ROWS = 0.1  # … and of its rows
_BYTES_PER_TOKEN = 4
_FEWEST = 5  # examples of a set from which one is held out
_COMPARED = 200  # characters of an answer below which only an exact copy counts
_REFUSED = "not encoded: "


def shares_of(sets: Sequence[MixedSet]) -> list[float]:
    """Each set's share of all training tokens; what is left is the repository's."""
    weights = [one.weight for one in sets if one.weight is not None]
    if weights:
        return [weight / (1 + sum(weights)) for weight in weights]
    return [one.share or 0.0 for one in sets]


def inputs_of(options: DatasetOptions) -> dict[str, str]:
    """Digests of the files that mixing reads, by what they are.

    Raises:
        DatasetError: a set or the review is not there, or cannot be read.
    """
    found = {f"mix {one.name}": digest_of_set(_path(one)) for one in options.mix}
    if options.review:
        file = Path(options.review).expanduser()
        Review.load(file)
        found["review"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


class Lot(NamedTuple):
    """A set with its rows in the lots' order, of which the first `held` ranks are held out."""

    one: MixedSet
    stream: Mixed
    catalogue: Catalogue
    spool: Spool
    held: int


@dataclass
class Mixture:
    """The sets of one dataset; `add_training` first, then `add_validation`."""

    options: DatasetOptions
    conversations: Conversations
    held_out: WindowSet
    review: Review
    progress: Progress
    digests: Mapping[str, str]
    text_bytes: int  # of the repository's own training text

    def __post_init__(self) -> None:
        self.streams: list[Mixed] = []
        self._first_in: dict[bytes, str] = {}  # the set that has an example first
        self._similar = NearDuplicates(self.options.similarity)
        self._held: list[tuple[str, list[Piece]]] = []
        self._encoder = Encoder(self.conversations.renderer)

    def add_training(self, tokens: TokenWriter, table: ExamplesFile, document: int) -> None:
        """Write each set's examples behind the repository's own; `document` is the next number.

        Raises:
            DatasetError: a set cannot be read, or too much of it has to be left out.
        """
        own, shares = tokens.tokens, shares_of(self.options.mix)
        with ExitStack() as files:
            lots = []
            for one, share in zip(self.options.mix, shares, strict=True):
                wanted = own * share / (1 - sum(shares))
                stream = Mixed(one.name, wanted, share, self.digests[f"mix {one.name}"])
                self.streams.append(stream)
                spool = Spool(files.enter_context(TemporaryFile(dir=tokens.path)))
                with self.progress.task(f"Holding out of {one.name}"):
                    lots.append(self._hold_first(one, stream, spool))
            for lot in lots:
                with self.progress.task(f"Mixing in {lot.one.name}"):
                    self._choose(lot)
                    document = self._write(lot, Rows(tokens, table), document)
                lot.spool.close()
                self._say(lot.one, lot.stream)

    def add_validation(self, tokens: TokenWriter, document: int) -> None:
        """Write what was held out of the sets behind the repository's own."""
        for name, pieces in self._held:
            for piece in pieces:
                tokens.append(piece.ids, stream=name, document=document, loss=piece.loss)
            document += 1

    def _hold_first(self, one: MixedSet, stream: Mixed, spool: Spool) -> Lot:
        """Encode the rows that the set holds out, in an order that the seed decides.

        All sets do so before any is trained on: no near-copy of them is taken instead, in this
        set or in another.
        """
        catalogue = self._catalogue(one, stream)
        if not len(catalogue):
            raise DatasetError(f"The set '{one.name}' ({one.path}) has no usable rows.")
        lot = Lot(one, stream, catalogue, spool, self._held_ranks(stream, catalogue))
        self._encode_ranks(lot, 0, lot.held)
        return lot

    def _choose(self, lot: Lot) -> None:
        """Encode as many further rows as are wanted."""
        catalogue, stream, done = lot.catalogue, lot.stream, lot.held
        target = stream.wanted
        aim = (target + self._held_wanted(stream)) * _SPARE
        while (found := lot.spool.tokens_from(lot.held)) < target and done < len(catalogue):
            last = max(catalogue.count_for(aim), min(done + _FEWEST, len(catalogue)))
            self._encode_ranks(lot, done, last)
            done = last
            aim *= min(10, max(_SPARE, target / max(found, 1)))
        refused = {
            why.removeprefix(_REFUSED): n
            for why, n in stream.dropped.items()
            if why.startswith(_REFUSED)
        }
        check_refused(stream.name, refused, done, self.options.refused_at_most, stream.refused)

    def _encode_ranks(self, lot: Lot, first: int, last: int) -> None:
        """Encode the rows of ranks first..last."""
        chosen = lot.catalogue.ranks(first, last)  # row → rank
        if not chosen:
            return
        for number, example in enumerate(self._unique(lot.one, Counter())):
            if number in chosen:
                self._encode(example, chosen[number], lot.stream, lot.spool)

    def _catalogue(self, one: MixedSet, stream: Mixed) -> Catalogue:
        catalogue = Catalogue(f"{self.options.seed} {one.name} ")
        characters = tokens = 0
        for number, example in enumerate(self._unique(one, stream.dropped)):
            size = len(_text_of(example))
            if number < _SAMPLE:
                made = self._pieces(example)
                characters += size
                tokens += 0 if isinstance(made, Refused) else sum(len(p.ids) for p in made[0])
            catalogue.add(bytes.fromhex(example.id), size)
        catalogue.tokens_per_character = max(tokens, 1) / max(characters, 1)
        stream.rows = len(catalogue)
        return catalogue

    def _unique(self, one: MixedSet, dropped: Counter[str]) -> Iterator[Example]:
        """The set's examples in file order without copies of each other or of earlier sets."""
        problems = Problems(stop=not one.skip_bad)
        here: set[bytes] = set()
        for example in _read(one, problems):
            key = bytes.fromhex(example.id)
            if key in here or self._first_in.setdefault(key, one.name) != one.name:
                dropped["copy"] += 1
                continue
            here.add(key)
            yield example
        if problems.total:
            if not one.skip_bad:
                problems.refuse()
            dropped["bad row"] += problems.total

    def _encode(self, example: Example, rank: int, stream: Mixed, spool: Spool) -> None:
        reviewed = self.review.apply(example)
        if reviewed is None:
            stream.dropped["review"] += 1
            return
        if reviewed.text != example.text:
            self._check_whole(example, stream)
        if len(self.held_out.find([_text_of(reviewed).encode()])):
            stream.dropped["holds held-out text"] += 1
            return
        compared = _compared(reviewed)
        signature = fingerprint(compared) if len(compared) >= _COMPARED else None
        if signature is not None and self._similar.find(signature) is not None:
            stream.dropped["near-duplicate"] += 1
            return
        made = self._pieces(reviewed)
        if isinstance(made, Refused):
            stream.dropped[_REFUSED + made.reason] += 1
            if len(stream.refused) < SHOWN:
                source = example.source
                stream.refused.append(f"{source.path}, row {source.span[0]}: {made.reason}")
            return
        if signature is not None:
            self._similar.add(stream.name, signature)
        pieces, shortened = made
        stream.shortened += shortened
        stream.has_answers |= example.messages is not None
        spool.add(rank, replace(reviewed, stream=stream.name), pieces)

    def _check_whole(self, example: Example, stream: Mixed) -> None:
        """A review shows an example as it is trained on: of a long text, one piece."""
        if len(list(self._text_pieces(example.text or ""))) > 1:
            raise DatasetError(
                f"The review edits the text {example.id} of the set '{stream.name}', which is "
                "longer than the window: the edit of a piece would replace it all.",
                advice=EDIT_THE_SET,
            )

    def _pieces(self, example: Example) -> tuple[list[Piece], Counter[str]] | Refused:
        if example.text is not None:
            return list(self._text_pieces(example.text)), Counter()
        done = self.conversations.encode(example)
        if isinstance(done, Refused):
            return done
        return [Piece(done.ids, done.loss)], done.shortened

    def _text_pieces(self, text: str) -> Iterator[Piece]:
        """A text as next-token examples, cut as files are."""
        renderer = self.conversations.renderer
        head = np.array(renderer.start(None, None), np.uint32)
        encoded = self._encoder.encode(text)
        borders = chunk_borders(encoded, "text", self.conversations.window - len(head) - 1)
        for first, last in pairwise(borders):
            tail = np.array([renderer.eos_id] if last == borders[-1] else [], np.uint32)
            ids = np.concatenate([head, encoded.ids[first:last], tail])
            place = slice(encoded.place_of(first), encoded.place_of(last))
            yield Piece(ids, np.arange(len(ids)) >= len(head), text[place])

    def _held_wanted(self, stream: Mixed) -> float:
        """Tokens to hold out, whatever the shares of replayed code and of FIM examples are."""
        own_share = stream.share_wanted / (1 - sum(shares_of(self.options.mix)))
        most = min(self.options.validation_bytes, self.text_bytes * own_share * _HELD_SHARE)
        return most / _BYTES_PER_TOKEN

    def _held_ranks(self, stream: Mixed, catalogue: Catalogue) -> int:
        """How many of the first ranks are never trained on.

        A search compares trials on the rows held out by the smallest of its shares: those of a
        larger share, and of any other data beside the set, have to be the same and more.
        """
        if len(catalogue) < _FEWEST:
            return 0
        most = max(1, int(len(catalogue) * _HELD_ROWS))
        return min(most, catalogue.count_for(self._held_wanted(stream)))

    def _write(self, lot: Lot, rows: Rows, document: int) -> int:
        """Write examples in the lots' order, again and again if needed; the next document."""
        one, stream, spool = lot.one, lot.stream, lot.spool
        ranks = spool.ranks()
        pool = ranks[self._hold_out(lot, ranks) :]
        total = sum(spool.sizes[rank] for rank in pool)
        if not total:
            reasons = ", ".join(f"{why} ({n})" for why, n in stream.dropped.most_common())
            raise DatasetError(f"Nothing of the set '{one.name}' can be trained on: {reasons}.")
        left = min(stream.wanted, total * one.epochs_at_most)
        used: set[int] = set()
        while left > 0:
            for rank in pool:
                size = spool.sizes[rank]
                if left < size / 2 and used:  # nearer to what is wanted without it
                    left = 0
                    break
                rows.add(*spool.get(rank), document)
                document += 1
                left -= size
                used.add(rank)
        rows.flush()
        stream.examples, stream.tokens = len(used), rows.tokens
        stream.epochs = rows.tokens / sum(spool.sizes[rank] for rank in used)
        return document

    def _hold_out(self, lot: Lot, ranks: list[int]) -> int:
        """Keep the examples of the held-out ranks for validation; how many there are."""
        stream, spool = lot.stream, lot.spool
        count = bisect_left(ranks, lot.held)
        for rank in ranks[:count]:
            self._held.append((stream.name, spool.get(rank)[1]))
            stream.held_tokens += spool.sizes[rank]
        stream.held_examples = count
        return count

    def _say(self, one: MixedSet, stream: Mixed) -> None:
        if left_out := left_out_of(_path(one)):
            self.progress.say(f"Of the set '{one.name}' {not_read(left_out)}.")
        if stream.tokens < 0.97 * stream.wanted:
            self.progress.say(
                f"The set '{one.name}' is too small for its share: {stream.tokens} of "
                f"{stream.wanted:.0f} tokens, each example {stream.epochs:.1f} times "
                f"(epochs_at_most: {one.epochs_at_most:g})."
            )
        if stream.held_examples == 0:
            self.progress.say(
                f"The set '{one.name}' has too few examples to hold one out: it gets no held-out "
                "loss of its own."
            )


def _path(one: MixedSet) -> Path:
    return Path(one.path).expanduser()


def _read(one: MixedSet, problems: Problems) -> Iterator[Example]:
    return read_set(
        _path(one),
        format=one.format,
        columns=one.columns,
        encoding=one.encoding,
        name=one.name,
        licence=one.licence,
        problems=problems,
    )


def _text_of(example: Example) -> str:
    """All of an example's text: what must not hold held-out text."""
    if example.text is not None:
        return example.text
    return "\n".join(message["content"] for message in example.messages or ())


def _compared(example: Example) -> str:
    """What makes two examples nearly the same: a text, or the answers.

    The same question to the same code may have two answers; the same answer to two phrasings of
    a question teaches little more than one.
    """
    if example.text is not None:
        return example.text
    answers = (m["content"] for m in example.messages or () if m["role"] == "assistant")
    return "\n".join(answers)
