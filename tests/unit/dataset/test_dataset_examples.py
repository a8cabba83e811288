"""What must hold of every example, whatever the file."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codetune.dataset.config import DatasetOptions
from codetune.dataset.examples import Rendered, Rendering
from codetune.dataset.recipe import Recipe
from tests.unit.dataset.corpora import code, document
from tests.unit.models.tiny_families import FAMILIES, WITH_FIM, write_base

LINES = ["def f(x):\n", "    return x\n", "\n", "  \n", "class A:\n", "\tif (a) {\n", "}\n", "x"]
LINES += ["# grüße 🙂\n", "<|endoftext|>", "<|fim_prefix|>", "\r\n", "print('<|file_sep|>')\n"]
LINES += ["'''", '"\n', "y = [1, 2,\n     3]\n", " " * 40, "a" * 60, "\\\n", "你好" * 9]
files = st.lists(st.sampled_from(LINES) | st.text(max_size=12), max_size=60).map("".join)
LINES += ["```\n", "One. Two! Three? ", "~~~ c\n"]
LANGUAGES = st.sampled_from(["python", "javascript", "text", "markdown"])


@cache
def rendering(tmp: str, family: str, window: int, **changes: object) -> Rendering:
    from pathlib import Path

    options = DatasetOptions()
    recipe = Recipe(
        seed=0, window=window, fim_rate=0.5, spm_rate=0.5, suffix_first="spm",
        mix=(0.6, 0.25, 0.15), minimum_span=5, maximum_span=options.maximum_span, middle_only=False, header_rate=0.5, commit="c",
    )  # fmt: skip
    recipe = Recipe(**(vars(recipe) | changes))  # type: ignore[arg-type]
    return Rendering(write_base(Path(tmp) / family, family), recipe)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("bases"))


def of(rendered: Rendered, stream: str) -> list[int]:
    return [n for n, name in enumerate(rendered.columns["stream"]) if name == stream]


def plain_text(family: str, text: str) -> str:
    """Texts that the family's own tokenizer gives back."""
    return text.replace("▁", "_").replace("õ", "o") if family in ("codellama", "deepseek") else text


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(text=files, language=LANGUAGES, window=st.sampled_from([64, 100]))
@example(text="", language="python", window=64)
@example(text="x = 1" * 400, language="python", window=64)
@example(text="🙂" * 200, language="text", window=64)
def test_pieces_are_the_file(
    place: str, family: str, text: str, language: str, window: int
) -> None:
    text = plain_text(family, text)
    make = rendering(place, family, window, fim_rate=0.0)
    rendered = make([document("a/b.py", text, language=language)])
    columns, renderer = rendered.columns, make.renderer
    assert "".join(columns["text"]) == text
    assert columns["ends_file"] == [False] * (len(columns["text"]) - 1) + [True]
    place_now = 0
    for number, ids in enumerate(rendered.tokens):
        assert len(ids) <= window
        assert columns["tokens"][number] == len(ids)
        assert (columns["start"][number], columns["end"][number]) == (
            place_now, place_now := place_now + len(columns["text"][number])
        )  # fmt: skip
        named = columns["header"][number]
        head = renderer.start("host/team/shop", "a/b.py") if named else renderer.start(None, None)
        assert ids[: len(head)].tolist() == head
        assert rendered.loss_from[number] == len(head)
        assert rendered.gap_from[number] == 0
        rest = ids[len(head) :].tolist()
        assert rest.count(renderer.eos_id) == columns["ends_file"][number]
        assert not set(rest[:-1]) & set(renderer.markup.values())
        assert renderer.decode(rest) == columns["text"][number]
    assert rendered.tokens[-1][-1] == renderer.eos_id


@pytest.mark.parametrize("family", WITH_FIM)
@settings(max_examples=40, deadline=None)
@given(text=files.filter(lambda text: len(text) > 60), language=LANGUAGES, seed=st.integers(0, 9))
def test_gaps_are_regions_of_the_file(
    place: str, family: str, text: str, language: str, seed: int
) -> None:
    text = plain_text(family, text)
    order = ("spm", "spm-marked")[seed % 2]
    make = rendering(place, family, 100, seed=seed, fim_rate=0.75, suffix_first=order)
    rendered = make([document("a/b.py", text, language=language)])
    columns, renderer, fim = rendered.columns, make.renderer, make.renderer.fim
    assert fim is not None
    for number in of(rendered, "fim"):
        row = {name: values[number] for name, values in columns.items()}
        assert row["prefix"] + row["middle"] + row["suffix"] == text[row["start"] : row["end"]]
        assert row["middle"]
        ids = rendered.tokens[number].tolist()
        assert len(ids) <= 100
        # Exactly what evaluation and serving would render, however it was put together here.
        names = {"repo": row["repo"], "path": row["path"]} if row["header"] else {}
        expected, middle = renderer.fim_example(
            row["prefix"], row["middle"], row["suffix"], order=row["order"], **names
        )
        assert ids == expected
        spm = row["order"] != "psm"
        word = row["prefix"][renderer.cursor_word(row["prefix"]) :] if spm else ""
        assert renderer.decode(ids[middle:]) == word + row["middle"]
        marks = {fim.prefix, fim.suffix, fim.middle}
        assert sorted(set(ids) & marks) == sorted(marks)
        assert sum(i in marks for i in ids) == 3
        assert ids.count(fim.end) == 1
        assert rendered.loss_from[number] < middle
        assert rendered.gap_from[number] == middle


def test_loss_on_the_middle_alone(place: str) -> None:
    make = rendering(place, "qwen", 200, middle_only=True, fim_rate=1.0)
    rendered = make([document("a.py", code(1, 6))])
    assert rendered.counts["examples fim"] > 1
    assert not of(rendered, "ntp")
    for number, ids in enumerate(rendered.tokens):
        prefix, middle = (rendered.columns[name][number] for name in ("prefix", "middle"))
        spm = rendered.columns["order"][number] == "spm"
        word = prefix[make.renderer.cursor_word(prefix) :] if spm else ""
        learned = ids[rendered.loss_from[number] :].tolist()
        assert make.renderer.decode(learned) == word + middle


def test_shares_and_kinds(place: str) -> None:
    """Over many files the shares of tokens, orders, headers and kinds are the wanted ones."""
    make = rendering(place, "qwen", 640, header_rate=0.8, minimum_span=50)
    rendered = make([document(f"m{n}.py", code(n, 1 + n % 9)) for n in range(300)])
    counts, columns = rendered.counts, rendered.columns
    share = counts["tokens fim"] / (counts["tokens fim"] + counts["tokens ntp"])
    assert 0.48 < share < 0.52
    gaps = of(rendered, "fim")
    assert 0.42 < counts["order spm"] / len(gaps) < 0.58
    assert 0.74 < np.mean(columns["header"]) < 0.86
    kinds = [columns["kind"][n].split(":")[0] for n in gaps]
    for kind, low, high in (("syntax", 0.5, 0.7), ("random", 0.08, 0.22)):
        assert low < kinds.count(kind) / len(gaps) < high
    assert 0.17 < (kinds.count("line") + kinds.count("lines")) / len(gaps) < 0.33
    lengths = [len(columns["middle"][n].encode()) for n in gaps if columns["kind"][n] > "r"]
    syntax = [len(columns["middle"][n].encode()) for n in gaps if columns["kind"][n][:3] == "syn"]
    assert min(syntax) >= 50
    assert max(lengths) <= 1000
    assert {k for k in columns["kind"] if k.startswith("syntax")} >= {"syntax:body", "syntax:block"}
    before = [len(columns["prefix"][n]) for n in gaps]
    after = [len(columns["suffix"][n]) for n in gaps]
    assert min(before) == min(after) == 0
    assert np.std(before) > 150
    assert np.std(after) > 100


def test_long_files_are_cut_at_definitions(place: str) -> None:
    make = rendering(place, "qwen", 4096, fim_rate=0.0)
    text = code("long", 100).replace("    raise", "\n    raise")  # paragraphs in definitions, too
    rendered = make([document("a.py", text)])
    pieces = rendered.columns["text"]
    assert len(pieces) > 5
    assert all(piece.startswith("def ") for piece in pieces[1:])
    for functions in range(9, 60, 3):  # whatever the length, no crumb is left at the end
        rendered = make([document("a.py", code("long", functions))])
        assert min(map(len, rendered.tokens)) > 1500


def test_a_long_path_does_not_crowd_out_the_code(place: str) -> None:
    make = rendering(place, "qwen", 64, header_rate=1.0)
    rendered = make([document("long/" * 60 + "a.py", code(3))])
    assert not any(rendered.columns["header"])


def test_prose_is_cut_between_sentences_and_never_inside_a_code_block(place: str) -> None:
    sentences = " ".join(
        f"The clerk writes order {n} into the book of the desk." for n in range(40)
    )
    block = "```python\n" + "\n\n".join(f"value_{n} = {n}" for n in range(12)) + "\n```\n"
    text = f"{sentences}\n\n{block}\n{sentences}\n"
    rendered = rendering(place, "qwen", 300, fim_rate=0.0)(
        [document("guide.md", text, language="markdown")]
    )
    pieces = [rendered.columns["text"][n] for n in of(rendered, "ntp")]
    assert "".join(pieces) == text and len(pieces) > 4
    for before, after in pairwise(pieces):
        assert before.rstrip().endswith((".", "```"))
        assert after.lstrip()[0] in "T`"
    assert sum(block.strip() in piece for piece in pieces) == 1
