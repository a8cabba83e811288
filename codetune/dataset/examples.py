"""Documents become examples and their tokens: the part of the work that runs in processes.

Every file's whole text stands in next-token examples exactly once. Beside that, fill-in-the-middle
examples are drawn from the same file until they hold their share of the tokens: the same code in
another order, with another task and other borders, teaches more than a second identical pass
would (one epoch shows each file about 1 / (1 - fim_rate) times). A file's own draw decides, by
chance, whether the last fraction of an example is made, so that shares are right on average and
no file depends on another one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from codetune.dataset.catalogue import seeded
from codetune.dataset.chunks import chunk_borders
from codetune.dataset.encoded import Encoded, Encoder, renderer_of
from codetune.dataset.recipe import Recipe
from codetune.dataset.spans import SpanChooser
from codetune.dataset.table import COLUMNS, pack_rows
from codetune.models.prompts import Ids, Order
from codetune.models.tokens import INDEX, STREAMS, Index, token_type
from codetune.records import Document
from codetune.syntax.parse import Span

_SLACK = 12  # tokens that cutting a text into three may add
_FEWEST = 24  # tokens of a file from which a FIM example is drawn


@dataclass
class Rendered:
    """Examples of some documents, in order: table columns, tokens end to end, index columns."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    tokens: list[Ids] = field(default_factory=list)
    loss_from: list[int] = field(default_factory=list)
    gap_from: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)  # number within the batch
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Packed:
    """`Rendered` as it is written: rows of the table, tokens, and rows of the token index.

    Offsets in `index` count from the first token, documents from the first one of this batch.
    """

    rows: bytes
    tokens: bytes
    index: Index
    counts: Counter[str]


class Rendering:
    """Makes the examples of a batch of documents."""

    def __init__(self, base: Path, recipe: Recipe) -> None:
        self.renderer = renderer_of(base)
        self.encoder = Encoder(self.renderer)
        self.recipe = recipe
        self.dropped = frozenset(recipe.dropped)

    def __call__(self, documents: list[Document]) -> Rendered:
        rendered = Rendered()
        for number, document in enumerate(documents):
            maker = _FileExamples(self, document, number, rendered)
            if self.recipe.fim_rate < 1:
                maker.next_token()
            if self.recipe.fim_rate > 0:
                maker.fill_in_the_middle()
            rendered.counts["documents"] += 1
            rendered.counts["bytes"] += len(document.text.encode())
        return rendered


class Packing(Rendering):
    """Makes them and packs them, so that the writing process has nothing left to do."""

    def __call__(self, documents: list[Document]) -> Packed:  # type: ignore[override]
        rendered = super().__call__(documents)
        index = np.zeros(len(rendered.tokens), INDEX)
        index["length"] = [len(ids) for ids in rendered.tokens]
        index["offset"] = np.cumsum(index["length"], dtype=np.uint64) - index["length"]
        index["loss_from"] = rendered.loss_from
        index["gap_from"] = rendered.gap_from
        index["document"] = rendered.documents
        index["stream"] = [STREAMS.index(name) for name in rendered.columns["stream"]]
        index["weight"] = rendered.columns["weight"]
        tokens = np.concatenate([np.empty(0, np.uint32), *rendered.tokens])
        packed = tokens.astype(token_type(self.renderer.vocab_size)).tobytes()
        return Packed(pack_rows(rendered.columns), packed, index, rendered.counts)


class PackingParts:
    """Packs batches of several parts of a dataset, each by a recipe of its own."""

    def __init__(self, base: Path, recipes: Mapping[str, Recipe]) -> None:
        self._by_part = {part: Packing(base, recipe) for part, recipe in recipes.items()}

    def __call__(self, batch: tuple[str, list[Document]]) -> tuple[str, Packed]:
        part, documents = batch
        return part, self._by_part[part](documents)


class _FileExamples:
    """The examples of one file, appended to `out`."""

    def __init__(self, by: Rendering, document: Document, number: int, out: Rendered) -> None:
        self.recipe, self.renderer, self.out = by.recipe, by.renderer, out
        self.dropped = by.dropped
        self.document, self.number = document, number
        self.encoded: Encoded = by.encoder.encode(document.text)
        self.random: Random = seeded(by.recipe.seed, "examples", document.id)
        self.made = 0
        self.bare = np.array(self.renderer.start(None, None), np.uint32)
        named = np.array(self.renderer.start(document.repo, document.path), np.uint32)
        # A path may not crowd out the code (as evaluation's cut, a quarter of the window).
        self.named = named if len(named) <= by.recipe.window // 4 else self.bare

    def start(self) -> tuple[Ids, bool]:
        """What an example begins with, and whether that is the file's name."""
        named = self.random.random() < self.recipe.header_rate and len(self.named) > len(self.bare)
        return (self.named if named else self.bare), named

    def next_token(self) -> None:
        """The file's text in pieces that fit the window, cut at definitions."""
        encoded, text = self.encoded, self.document.text
        room = self.recipe.window - len(self.named) - 1  # the end-of-text token
        borders = chunk_borders(encoded, self.document.language, room)
        self.out.counts["files in pieces"] += len(borders) > 2
        for first, last in pairwise(borders):
            head, named = self.start()
            ends = last == borders[-1]
            tail = [self.renderer.eos_id] if ends else []
            ids = np.concatenate([head, encoded.ids[first:last], np.array(tail, np.uint32)])
            place = encoded.place_of(first), encoded.place_of(last)
            more: dict[str, Any] = {"text": text[slice(*place)], "ends_file": ends, "header": named}
            self._add(ids, len(head), "ntp", place, **more)

    def fill_in_the_middle(self) -> None:
        """Draw examples until they hold the wanted share of tokens."""
        rate, total = self.recipe.fim_rate, len(self.encoded)
        if total < _FEWEST:
            return
        wanted = total * (rate / (1 - rate) if rate < 1 else 1.0)
        recipe = self.recipe
        chooser = SpanChooser(
            self.document.text,
            self.document.language,
            self.encoded.lines,
            recipe.mix,
            (recipe.minimum_span, recipe.maximum_span),
            wanted / total,
        )
        misses = 0
        while wanted > 0 and misses < 20:
            head, named = self.start()
            span = chooser.draw(self.random)
            region = self._region(span, head) if span else None
            if span is None or region is None:
                misses += 1
                continue
            size = self.encoded.token_from(region[1]) - self.encoded.token_from(region[0])
            if wanted < size and self.random.random() >= wanted / size:
                break
            wanted -= max(size, 1)
            misses += not self._fim(span, region, head, named)

    def _region(self, span: Span, head: Ids) -> tuple[int, int] | None:
        """The characters around `span` that become prefix and suffix: of widely varying lengths.

        Half of the examples use the whole room, the others some part of it; how it is shared
        between both sides is drawn, too, and now and then one of them is empty.
        """
        encoded, random = self.encoded, self.random
        room = self.recipe.window - len(head) - self.renderer.fim_overhead - _SLACK
        first, last = encoded.token_from(span.start), encoded.token_from(span.end)
        room -= last - first + 1
        if room < max(16, (last - first) // 2):
            return None
        if random.random() < 0.5:
            room = max(16, round(room * random.uniform(0.1, 1)))
        share = random.betavariate(2, 1) if random.random() < 0.85 else random.choice((0.0, 1.0))
        before, after = first, len(encoded) - last
        left = min(before, round(room * share))
        right = min(after, room - left)
        if share < 1:  # what one side does not need is the other's
            left = min(before, room - right)
        begin, end = max(first - left, 0), min(last + right, len(encoded))
        return (
            0 if begin == 0 else self._line_after(encoded.place_of(begin), span.start),
            len(encoded.text) if end == len(encoded)
            else self._line_before(span.end, encoded.place_of(end)),
        )  # fmt: skip

    def _line_after(self, place: int, limit: int) -> int:
        """The next line's start, if it costs at most a quarter of the prefix: as `fit_fim` cuts."""
        found = self.document.text.find("\n", place, place + max(limit - place, 0) // 4) + 1
        return min(found or place, limit)

    def _line_before(self, limit: int, place: int) -> int:
        found = self.document.text.rfind("\n", place - max(place - limit, 0) // 4, place) + 1
        return max(found or place, limit)

    def _fim(self, span: Span, region: tuple[int, int], head: Ids, named: bool) -> bool:
        """Add an example; False if it does not fit after all."""
        text = self.document.text
        recipe = self.recipe
        order: Order = recipe.suffix_first if self.random.random() < recipe.spm_rate else "psm"
        prefix = text[region[0] : span.start]
        middle, suffix = text[span.start : span.end], text[span.end : region[1]]
        if len(middle.encode()) > self.recipe.maximum_span:
            return False
        fim, encoded = self.renderer.fim, self.encoded
        assert fim is not None
        cut = self.renderer.cursor_word(prefix) if order != "psm" else len(prefix)
        if fim.family.leading_space and prefix[:cut]:
            before = self.renderer.plain_ids(" " + prefix[:cut])
        else:
            before = encoded.ids_of(region[0], region[0] + cut)
        after = encoded.ids_of(span.end, region[1])
        answer = self.renderer.plain_ids(prefix[cut:] + middle)
        prompt = self.renderer.fim_parts(before, after, head, order)
        size = sum(map(len, prompt))
        if size + len(answer) + 1 > self.recipe.window:
            return False
        loss_from = size if self.recipe.middle_only else len(head) + 1
        ids = np.concatenate([*prompt, answer, [fim.end]]).astype(np.uint32)
        parts = {"prefix": prefix, "middle": middle, "suffix": suffix}
        more = {"kind": span.kind, "order": order, "header": named}
        self._add(ids, loss_from, "fim", region, gap_from=size, **parts, **more)
        return True

    def _add(
        self, ids: Ids, loss_from: int, stream: str, place: tuple[int, int], *,
        gap_from: int = 0, **more: Any,
    ) -> None:  # fmt: skip
        document, out = self.document, self.out
        name = f"{document.id}\n{stream}\n{place}\n{self.made}"
        number = hashlib.sha256(name.encode()).hexdigest()[:32]
        self.made += 1
        if number in self.dropped:
            out.counts["dropped by review"] += 1
            return
        row = {
            "id": number,
            "stream": "replay" if self.recipe.replayed else stream,
            "repo": document.repo,
            "commit": self.recipe.commit,
            "path": document.path,
            "start": place[0],
            "end": place[1],
            "licence": document.licence,
            "weight": 1.0,
            "language": document.language,
            "kind": "",
            "ends_file": False,
            "tokens": len(ids),
        } | more
        for column, values in out.columns.items():
            values.append(row.get(column))
        out.tokens.append(ids)
        out.loss_from.append(loss_from)
        out.gap_from.append(gap_from)
        out.documents.append(self.number)
        out.counts[f"examples {stream}"] += 1
        out.counts[f"tokens {stream}"] += len(ids)
        out.counts[f"language {document.language}"] += len(ids)
        if stream == "fim":
            out.counts[f"kind {row['kind']}"] += 1
            out.counts[f"order {row['order']}"] += 1
