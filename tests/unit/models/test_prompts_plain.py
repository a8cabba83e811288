"""No text reaches a control token, and decoding gives the text back, in every family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from codetune.errors import ModelError
from codetune.models.prompts import Renderer
from tests.unit.models.tiny_families import FAMILIES, QWEN, WITH_FIM, renderer, write_base

LITERALS = ["<|endoftext|>", "<|fim_prefix|>", "<fim_suffix>", "▁<PRE>", " <PRE>", "<s>", "</s>"]
LITERALS += ["<｜fim▁hole｜>", "<unk>", "<|im_end|>", "<repo_name>", "<0x0A>", "õ"]
texts = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(LITERALS),
        st.sampled_from(["\n", " ", "\t", "\r\n", "def f(x):\n    ", "  x", "e\u0301"]),
    )
).map("".join)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=80, deadline=None)
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
@settings(max_examples=80, deadline=None)
@given(text=texts.filter(lambda text: "õ" not in text))
@example(text="  leading blanks stay")
@example(text="e\u0301 stays decomposed")
def test_decoding_gives_the_text_back(family: str, text: str) -> None:
    base = renderer(family)
    if family == "codellama":
        text = text.replace("▁", "")  # SentencePiece writes a blank with it
    assert base.decode(base.plain(text)) == text


source = st.text(st.sampled_from(" \n\t\rabzAZ_059'\"(){};=.<|>\x0b\x0c\x1c\x00~")) | texts


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("codellama", "deepseek")])
@settings(max_examples=100, deadline=None)
@given(text=source)
@example(text="    'don't  \n\n \n\tx'\r\n")
@example(text="\x1c \x1c x\x85\xa0y")
@example(text="# größe ½²٣ e\u0301 你好\u3000it’s 'ſ 'K\u2028x\x85\n\u0378\u200b🙂🙂 Ⅷ9 ñ_ß 'Ö'S\n")
def test_looking_words_up_changes_nothing(family: str, text: str) -> None:
    base = renderer(family)
    assert base._words is not None
    encoding = base._plain.encode(text, add_special_tokens=False)
    ids, starts = base.plain_offsets(text)
    assert ids.tolist() == encoding.ids == base.plain(text)
    assert starts.tolist() == [start for start, _ in encoding.offsets]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=50, deadline=None)
@given(text=texts.filter(lambda text: "õ" not in text and "▁" not in text))
def test_bytes_are_those_of_decoding(family: str, text: str) -> None:
    base = renderer(family)
    ids = [base.eos_id, *base.plain(text)]
    assert base.decode_bytes(ids) == text.encode()


def test_words_are_not_used_where_they_would_differ(tmp_path: Path) -> None:
    spec = json.loads((write_base(tmp_path, "qwen") / "tokenizer.json").read_text())
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}

    def uses_words(**changed: object) -> bool:
        (tmp_path / "tokenizer.json").write_text(json.dumps(spec | changed))
        return Renderer.from_folder(tmp_path)._words is not None

    def splitting(expression: str, behavior: str = "Isolated") -> dict[str, object]:
        first = {"type": "Split", "pattern": {"Regex": expression}, "invert": False}
        last = split | {"use_regex": False}
        return {"type": "Sequence", "pretokenizers": [first | {"behavior": behavior}, last]}

    assert uses_words()
    assert uses_words(pre_tokenizer=splitting(r"\p{L}+|[^\p{L}]"))
    assert not uses_words(pre_tokenizer=splitting(r"\p{L}+|[^\p{L}]", "Removed"))
    assert not uses_words(pre_tokenizer=splitting(r"(\p{L})+|[^\p{L}]"))
    assert not uses_words(pre_tokenizer=splitting(r"\p{Lu}+|."))
    assert not uses_words(pre_tokenizer=splitting(r"\p{L}+"))
    assert not uses_words(normalizer={"type": "Lowercase"})
    assert not renderer("deepseek")._words  # its letters among the added tokens come first
    assert not renderer("codellama")._words


def test_texts_beyond_ascii_are_looked_up_where_that_is_sure(tmp_path: Path) -> None:
    words = renderer("qwen")._words
    assert words is not None
    assert words.encode("größe = '你好' ½") is not None
    for unsure in ("'ſ", "\u0378", "\ud800"):
        assert words.encode(unsure) is None
    spec = json.loads((write_base(tmp_path, "qwen") / "tokenizer.json").read_text())
    expression = spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    expression["Regex"] = "[A-Z]+|" + expression["Regex"]  # no foreign letter is one of these
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    base = Renderer.from_folder(tmp_path)
    assert base._words is not None
    assert base._words.encode("GRO") is not None
    assert base._words.encode("GRÖ") is None
    assert base.plain_offsets("GRÖ")[0].tolist() == base.plain("GRÖ")


def test_the_dictionary_of_words_starts_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("codetune.models.prompts.words._MOST_WORDS", 5)
    base = Renderer.from_folder(write_base(tmp_path, "qwen"))
    for text in ("a b c d e f", "a b x y z", "a b c d e f g h"):
        assert base.plain_offsets(text)[0].tolist() == base.plain(text)


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
