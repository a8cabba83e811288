"""No text reaches a control token, and decoding gives the text back, in every family."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_families import FAMILIES, QWEN, WITH_FIM, write_base
from tokenizers import Tokenizer

from codetune.errors import ModelError
from codetune.models.prompts import Renderer

LITERALS = ["<|endoftext|>", "<|fim_prefix|>", "<fim_suffix>", "▁<PRE>", " <PRE>", "<s>", "</s>"]
LITERALS += ["<｜fim▁hole｜>", "<unk>", "<|im_end|>", "<repo_name>", "<0x0A>", "õ"]
texts = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(LITERALS),
        st.sampled_from(["\n", " ", "\t", "\r\n", "def f(x):\n    ", "  x", "e\u0301"]),
    )
).map("".join)


@cache
def renderer(family: str) -> Renderer:
    return Renderer.from_folder(write_base(Path(mkdtemp()), family))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(text=texts)
@example(text="".join(LITERALS))
@example(text="")
def test_no_text_becomes_a_control_token(family: str, text: str) -> None:
    base = renderer(family)
    control = set(base.markup.values())
    ids = base.plain(text)
    assert not control & set(ids)
    assert base.plain_batch([text, text]) == [ids, ids]
    assert control >= {base.eos_id} | base.fim_stops | base.chat_stops


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(text=texts.filter(lambda text: "õ" not in text))
@example(text="  leading blanks stay")
@example(text="e\u0301 stays decomposed")
def test_decoding_gives_the_text_back(family: str, text: str) -> None:
    base = renderer(family)
    if family == "codellama":
        text = text.replace("▁", "")  # SentencePiece writes a blank with it
    assert base.decode(base.plain(text)) == text


def test_the_switch_of_tokenizers_would_not_do(tmp_path: Path) -> None:
    """Why `plain_tokenizer` exists; when this fails, it may go."""
    write_base(tmp_path, "qwen")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    assert "<|fim_prefix|>" in tokenizer.encode("x<|fim_prefix|>").tokens
    assert "<|endoftext|>" not in tokenizer.encode("x<|endoftext|>").tokens


def test_ids_do_not_move(tmp_path: Path) -> None:
    for family in FAMILIES:
        folder = write_base(tmp_path / family, family)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        base = Renderer.from_folder(folder)
        text = "def total(items):\n\treturn grüße 你好 🙂\n"
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        if family == "codellama":
            expected = tokenizer.encode("x" + text, add_special_tokens=False).ids
            text = " x" + text
        assert base.plain(text) == expected
        for name, number in base.markup.items():
            assert tokenizer.token_to_id(name) == number


def test_lone_surrogates_are_replaced() -> None:
    base = renderer("qwen")
    assert base.decode(base.plain("a\ud800b")) == "a?b"


def test_bases_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        Renderer.from_folder(tmp_path)
    folder = write_base(tmp_path / "broken", "qwen")
    text = (folder / "tokenizer.json").read_text()
    for broken in ("{", "[]", "{}", '{"model": {"vocab": 1}}', text.replace('"BPE"', '"XYZ"')):
        (folder / "tokenizer.json").write_text(broken)
        with pytest.raises(ModelError, match="cannot be used"):
            Renderer.from_folder(folder)
    spec = json.loads(text)
    spec["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ModelError, match="end-of-text"):
        Renderer.from_folder(folder)


def test_the_tables_cover_what_is_tested() -> None:
    assert set(QWEN) <= renderer("qwen").markup.keys()
    assert all(renderer(family).fim for family in WITH_FIM)
    assert renderer("gpt2").fim is None
