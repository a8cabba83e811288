"""Spans of thirteen languages, in characters, that mean something."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.syntax.parse import HAS_GRAMMAR, fim_spans, top_level_spans

SAMPLES = {
    "python": "def area(width, height):\n    if width < 0 or height < 0 or width > 1000:\n"
    "        raise ValueError('a side cannot be negative', width, height)\n    return width * height\n",
    "javascript": "function area(width, height) {\n  if (width < 0 || height < 0 || width > 1000000) {\n"
    "    throw new Error('a side cannot be negative', width, height);\n  }\n  return width * height;\n}\n",
    "rust": "fn area(width: i64, height: i64) -> i64 {\n    if width < 0 || height < 0 || width > 1000000 {\n"
    "        panic!(\"a side cannot be negative: {} {}\", width, height);\n    }\n    width * height\n}\n",
    "go": "package a\n\nfunc Area(width, height int) int {\n\tif width < 0 || height < 0 || width > 1000000000 {\n"
    "\t\tpanic(fmt.Sprintf(\"a side cannot be negative: %d %d\", width, height))\n\t}\n\treturn width * height\n}\n",
    "java": "class A {\n  int area(int width, int height) {\n    if (width < 0 || height < 0 || width > 10000000000) {\n"
    "      throw new Error(\"a side cannot be negative \" + width + height + message);\n    }\n    return width * height;\n  }\n}\n",
    "c": "int area(int width, int height) {\n  if (width < 0 || height < 0 || width > 1000000000000) {\n"
    "    fail(\"a side cannot be negative: %d %d\", width, height);\n  }\n  return width * height;\n}\n",
    "ruby": "def area(width, height)\n  if width < 0 || height < 0 || width > 100000000000000\n"
    "    raise ArgumentError.new('a side cannot be negative', width, height)\n  end\n  width * height\nend\n",
    "bash": "area() {\n  if [ \"$1\" -lt 0 ] || [ \"$2\" -lt 0 ] || [ \"$1\" -gt 10000 ]; then\n"
    "    echo \"a side cannot be negative: $1 $2, so give up\" >&2\n  fi\n  echo $(($1 * $2))\n}\n",
}  # fmt: skip
for alias, source in {"typescript": "javascript", "tsx": "javascript", "cpp": "c"}.items():
    SAMPLES[alias] = SAMPLES[source]
SAMPLES["csharp"] = SAMPLES["java"]
SAMPLES["php"] = "<?php\n" + SAMPLES["javascript"].replace("width", "$w").replace(
    "height", "$height"
)


def test_every_grammar_has_a_sample():
    assert set(SAMPLES) == HAS_GRAMMAR


@pytest.mark.parametrize("language", sorted(SAMPLES))
def test_bodies_and_conditions_are_found(language):
    text = SAMPLES[language]
    spans = fim_spans(text, language, minimum=25)
    kinds = {span.kind for span in spans}
    assert {"body", "condition"} <= kinds or language == "bash", kinds
    assert kinds & {"body", "block"}
    for span in spans:
        piece = text[span.start : span.end]
        assert piece == piece.strip()
        assert 25 <= len(piece.encode()) <= 1000
        assert piece[0] not in "{" or piece[-1] != "}" or piece.count("{") != 1


def test_condition_and_arguments_are_without_brackets():
    found = {
        s.kind: SAMPLES["c"][s.start : s.end] for s in fim_spans(SAMPLES["c"], "c", minimum=20)
    }
    assert found["condition"] == "width < 0 || height < 0 || width > 1000000000000"
    assert found["arguments"] == '"a side cannot be negative: %d %d", width, height'
    assert found["parameters"] == "int width, int height"


def test_limits_are_in_bytes_and_spans_in_characters():
    text = (
        "x = 'ä'\n\n\ndef größe(breite, höhe):\n    return breite * höhe + 'ÄÖÜ' + 'ÄÖÜ' + 'ÄÖÜ'\n"
    )
    (span,) = [s for s in fim_spans(text, "python", minimum=50) if s.kind == "body"]
    assert text[span.start : span.end] == "return breite * höhe + 'ÄÖÜ' + 'ÄÖÜ' + 'ÄÖÜ'"
    length = len(text[span.start : span.end].encode())
    assert span not in fim_spans(text, "python", minimum=50, maximum=length - 1)
    assert span in fim_spans(text, "python", minimum=length, maximum=length)


@pytest.mark.parametrize("head", ["", "# grüße 🙂\n"])
def test_a_part_gives_the_spans_that_start_in_it(head):
    text = head + "\n".join(SAMPLES["python"].replace("area", f"area_{n}") for n in range(20))
    places = [(0, 40), (300, 301), (500, 900), (len(text) - 60, len(text))]
    everything = fim_spans(text, "python", minimum=25)
    some = fim_spans(text, "python", minimum=25, within=places)
    assert some == [s for s in everything if any(a <= s.start < b for a, b in places)]
    assert 0 < len(some) < len(everything) / 3
    assert fim_spans(text, "python", within=[]) == []


def test_broken_code_still_gives_its_sound_parts():
    text = "def broken(:\n    pass\n\n" + SAMPLES["python"]
    pieces = [text[s.start : s.end] for s in fim_spans(text, "python", minimum=25)]
    assert any("raise ValueError" in piece for piece in pieces)


@pytest.mark.parametrize("language", ["text", "markdown", "kotlin", "nonsense"])
def test_without_a_grammar_there_are_no_spans(language):
    assert fim_spans(SAMPLES["python"], language) == []
    assert top_level_spans(SAMPLES["python"], language) == []


def test_top_level_spans_follow_one_another_and_keep_comments_with_definitions():
    text = "import os\n\n# what a does\n# in two lines\ndef a():\n    pass\n\n\n# alone\n\n\nclass B:\n    x = 1\n"
    spans = top_level_spans(text, "python")
    assert [text[s.start : s.end].split("\n")[0] for s in spans] == [
        "import os", "# what a does", "# alone", "class B:",
    ]  # fmt: skip
    assert [s.kind for s in spans] == ["statement", "definition", "comment", "definition"]


def test_attributes_stay_with_their_item():
    text = "#[derive(Debug)]\n#[cfg(test)]\nstruct A;\n\nstruct B;\n"
    spans = top_level_spans(text, "rust")
    assert [text[s.start : s.end] for s in spans] == [
        "#[derive(Debug)]\n#[cfg(test)]\nstruct A;", "struct B;",
    ]  # fmt: skip


def test_a_long_class_is_opened():
    methods = "\n".join(f"    def m{n}(self):\n        return {n}\n" for n in range(200))
    text = f"class Long:\n{methods}\n\ndef after():\n    pass\n"
    spans = top_level_spans(text, "python", largest=2000)
    assert len(spans) == 201
    assert text[spans[-1].start :].startswith("def after")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_any_text_gives_ordered_spans_inside_it(language, data):
    base = SAMPLES[language]
    cut = data.draw(st.integers(0, len(base)))
    text = base[:cut] + data.draw(st.text(max_size=30)) + base[cut:]
    for spans in (fim_spans(text, language, minimum=10), top_level_spans(text, language)):
        assert len({(s.start, s.end) for s in spans}) == len(spans)
        assert [s.start for s in spans] == sorted(s.start for s in spans)
        assert all(0 <= s.start < s.end <= len(text) for s in spans)
    top = top_level_spans(text, language)
    assert all(one.end <= two.start for one, two in itertools.pairwise(top))


@pytest.mark.parametrize(
    "language, text",
    [
        ("java", "a<" * 100_000),  # 90 GB without the guard
        ("csharp", "a<\n" * 100_000),
        ("c", "a=>" * 5_000),
        ("java", "a=>\n" * 5_000),
        ("go", "case a:" * 20_000),
        ("javascript", "case a:" * 20_000),
        ("bash", "if(a)" * 100_000),
        ("python", "(" * 100_000),
        ("cpp", "{[(" * 30_000),
    ],
)
def test_hostile_text_is_not_parsed(language, text):
    """A poisoned file must not take the memory or the hours of the machine that learns from it."""
    assert fim_spans(text, language) == []
    assert top_level_spans(text, language) == []
