"""Documents → rows of tokens: chunks, headers, holes to fill (FIM), packing.

A row is `row` tokens long and holds whole chunks end to end; a chunk never sees another one
(network.py attends inside each chunk only). Shards of rows are prepared in order and are a
pure function of (documents, recipe, shard number, window), which makes resuming exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.errors import TrainingError
from codetune.models.nano.recipe import DataRecipe
from codetune.models.prompts.healing import word_at_end

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

BYTES_PER_TOKEN = 3.4
_GRAMMARS = {
    "python": ("tree_sitter_python", "language"),
    "cython": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
}


@dataclass
class Shard:
    """Prepared rows: `tokens` is (rows, row) uint16; `lengths[i]` are row i's documents."""

    tokens: np.ndarray
    lengths: list[list[int]]
    real: list[int]  # tokens of row i that are not padding

    def save(self, path: Path) -> None:
        import numpy as np

        counts = np.array([len(lengths) for lengths in self.lengths])
        flat = np.concatenate([np.array(lengths) for lengths in self.lengths])
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, tokens=self.tokens, counts=counts, flat=flat, real=np.array(self.real))
        temporary.rename(path)

    @classmethod
    def load(cls, path: Path) -> Shard:
        import numpy as np

        with np.load(path) as stored:
            ends = np.cumsum(stored["counts"])[:-1]
            lengths = [part.tolist() for part in np.split(stored["flat"], ends)]
            return cls(stored["tokens"], lengths, stored["real"].tolist())


class Renderer:
    """Turns a file into the token lists of its chunks."""

    def __init__(self, tokenizer: Tokenizer, recipe: DataRecipe) -> None:
        self.tokenizer = tokenizer
        self.recipe = recipe
        self._parsers: dict[str, Any] = {}
        ids = tokenizer.get_vocab()
        self.end = ids["<|endoftext|>"]
        self.prefix, self.middle, self.suffix = (
            ids[f"<|fim_{part}|>"] for part in ("prefix", "middle", "suffix")
        )
        self.repo_name, self.file_sep = ids["<|repo_name|>"], ids["<|file_sep|>"]
        self.pad = ids["<|fim_pad|>"]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []

    def chunks(
        self, repo: str, path: str, language: str, text: str, window: int, dice: random.Random
    ) -> list[list[int]]:
        """The file's chunks of at most `window` tokens, half of them with a hole."""
        rendered: list[list[int]] = []
        longest = self.recipe.chunks_per_file * window * BYTES_PER_TOKEN
        if len(text) > longest:
            start = text.rfind("\n", 0, dice.randrange(int(len(text) - longest) + 1)) + 1
            text = text[start:]
        position = 0
        while position < len(text) and len(rendered) < self.recipe.chunks_per_file:
            hole = dice.random() < self.recipe.fim_rate
            # Most holes stand in short chunks: only a hole's own tokens teach filling, and a
            # small model needs to see many of them.
            size = 40 * (0.9 * window / 40) ** dice.random() if hole else window
            end = self._line_end(text, position + int(size * BYTES_PER_TOKEN))
            piece = text[position:end]
            header = self.header(repo, path, dice)
            if hole and len(piece) > 60:
                ids = self.with_hole(piece, language, header, window, dice)
            else:
                ids = header + self.encode(piece)
                if end >= len(text) and len(ids) < window:
                    ids.append(self.end)
                ids = ids[:window]
            if len(ids) > 16:
                rendered.append(ids)
            position = end
        return rendered

    def header(self, repo: str, path: str, dice: random.Random) -> list[int]:
        """Repository and path, path only, or nothing."""
        roll = dice.random() - self.recipe.repo_header_rate
        named = [self.file_sep, *self.encode(f"{path}\n")]
        if roll < 0:
            return [self.repo_name, *self.encode(f"{repo}\n"), *named]
        return named if roll < self.recipe.path_header_rate else []

    def with_hole(
        self, text: str, language: str, header: list[int], window: int, dice: random.Random
    ) -> list[int]:
        """One fill-in-the-middle document; too long ones lose the far ends of the context."""
        start, end = self.span(text, language, dice)
        spm = dice.random() < self.recipe.spm_rate
        # Suffix first, the word at the cursor is written again, as the product asks for it.
        cut = word_at_end(self.tokenizer, text[:start]) if spm else start
        middle = self.encode(text[cut:end])
        before, after = text[:cut], text[end:]
        spare = window - len(header) - 5
        after_ids = self.encode(after)
        middle = middle[: spare // 2]
        before_ids = self.encode(before)[-(spare - len(middle)) :]
        after_ids = after_ids[: max(0, spare - len(middle) - len(before_ids))]
        opened = [self.prefix, *before_ids, self.suffix, *after_ids, self.middle]
        if spm:
            opened = [self.suffix, *after_ids, self.prefix, *before_ids, self.middle]
        return [*header, *opened, *middle, self.end]

    def span(self, text: str, language: str, dice: random.Random) -> tuple[int, int]:
        """Where the hole is: a syntax node, some lines, a line's end, or any characters."""
        roll = dice.random()
        if roll < 0.45 and language in _GRAMMARS:
            node = self._node(text, language, dice)
            if node is not None:
                return node
        if roll < 0.65:
            starts = [0] + [at + 1 for at, letter in enumerate(text[:-1]) if letter == "\n"]
            first = dice.randrange(len(starts))
            last = min(first + dice.choice((1, 1, 1, 2, 2, 3, 4, 6, 8)), len(starts)) - 1
            end = starts[last + 1] - 1 if last + 1 < len(starts) else len(text)
            indent = len(text[starts[first] : end]) - len(text[starts[first] : end].lstrip(" \t"))
            return starts[first] + (indent if dice.random() < 0.7 else 0), end
        start = dice.randrange(len(text))
        if dice.random() < 0.8:
            start = self._word_start(text, start)
        if roll < 0.85:
            end = text.find("\n", start)
            return start, end if end >= 0 else len(text)
        return start, min(len(text), start + int(10 * 40 ** dice.random()))

    @staticmethod
    def _word_start(text: str, at: int) -> int:
        """Back to where the word at `at` begins: what follows half a word is mostly noise."""
        while at > 0 and (text[at - 1].isalnum() or text[at - 1] == "_"):
            at -= 1
        return at

    def _node(self, text: str, language: str, dice: random.Random) -> tuple[int, int] | None:
        """A syntax node between 10 and 1000 bytes, short ones preferred."""
        source = text.encode()
        cursor = self._parser(language).parse(source).walk()
        found: list[tuple[int, int]] = []
        while True:
            node = cursor.node
            size = node.end_byte - node.start_byte
            wanted = (
                node.is_named
                and node.child_count
                and node.type not in ("comment", "string", "ERROR")
            )
            if wanted and 10 <= size <= 1000 and size < len(source):
                found.append((node.start_byte, node.end_byte))
            if size >= 10 and cursor.goto_first_child():
                continue
            while not cursor.goto_next_sibling():
                if not cursor.goto_parent():
                    return self._pick(source, found, dice)

    @staticmethod
    def _pick(
        source: bytes, found: list[tuple[int, int]], dice: random.Random
    ) -> tuple[int, int] | None:
        if not found:
            return None
        aim = 12 * 40 ** dice.random()
        some = [found[dice.randrange(len(found))] for _ in range(4)]
        start, end = min(some, key=lambda span: abs(span[1] - span[0] - aim))
        before = len(source[:start].decode(errors="replace"))
        return before, before + len(source[start:end].decode(errors="replace"))

    def _parser(self, language: str) -> Any:
        if language not in self._parsers:
            import importlib

            import tree_sitter

            module, function = _GRAMMARS[language]
            grammar = tree_sitter.Language(getattr(importlib.import_module(module), function)())
            self._parsers[language] = tree_sitter.Parser(grammar)
        return self._parsers[language]

    @staticmethod
    def _line_end(text: str, wanted: int) -> int:
        if wanted >= len(text):
            return len(text)
        end = text.rfind("\n", wanted // 2, wanted)
        return end + 1 if end >= 0 else wanted


def pack(chunks: list[list[int]], row: int, pad: int) -> Shard:
    """Chunks into rows, each into the open row that it fills best; little is left to padding."""
    import numpy as np

    closed: list[list[list[int]]] = []
    opened: list[tuple[int, list[list[int]]]] = []
    for chunk in chunks:
        fits = [number for number, (free, _) in enumerate(opened) if free >= len(chunk)]
        if fits:
            best = min(fits, key=lambda number: opened[number][0])
            free, members = opened[best]
            members.append(chunk)
            opened[best] = (free - len(chunk), members)
        else:
            opened.append((row - len(chunk), [chunk]))
        if len(opened) > 12:
            fullest = min(range(len(opened)), key=lambda number: opened[number][0])
            closed.append(opened.pop(fullest)[1])
    whole = [members for free, members in opened if free < row // 8]
    closed += whole or ([] if closed else [opened[0][1]])
    tokens = np.full((len(closed), row), pad, dtype=np.uint16)
    lengths, real = [], []
    for number, members in enumerate(closed):
        flat = [token for member in members for token in member]
        tokens[number, : len(flat)] = flat
        filler = [row - len(flat)] if len(flat) < row else []
        lengths.append([len(member) for member in members] + filler)
        real.append(len(flat))
    return Shard(tokens, lengths, real)


def prepare_shard(
    documents: Path, tokenizer_file: Path, recipe: DataRecipe, number: int, window: int, path: Path
) -> None:
    """Shard `number` of the reading order, cut for `window`; written once."""
    import pyarrow.parquet as pq

    from codetune.models.nano.mixture import reading_order
    from codetune.models.nano.tokenizer import load_plain

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(documents, columns=["repo", "path", "language", "text"])
    order = reading_order(documents, recipe.total_bytes, recipe.seed)
    count = max(1, min(recipe.total_bytes // recipe.shard_bytes, len(order) // 50))
    rows = order[number % count :: count]
    renderer = Renderer(load_plain(tokenizer_file), recipe)
    dice = random.Random(f"{recipe.seed} {number} {window}")
    chunks: list[list[int]] = []
    for document in table.take(rows).to_pylist():
        chunks += renderer.chunks(**document, window=window, dice=dice)
    if not chunks:
        raise TrainingError("The documents give no training text.", advice="Add packages.")
    dice.shuffle(chunks)
    pack(chunks, recipe.row, renderer.pad).save(path)
