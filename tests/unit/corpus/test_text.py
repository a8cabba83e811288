"""Bytes to text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetune.corpus.decode import decode, is_binary

PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn")), max_size=200)


@given(PLAIN)
def test_utf8_survives(text):
    found = decode(text.encode())
    assert found is not None
    assert found.text == text


@given(PLAIN.filter(str.strip), st.sampled_from(["utf-16", "utf-32", "utf-8-sig"]))
def test_marked_encodings_survive(text, encoding):
    content = text.encode(encoding)
    assert not is_binary(content)
    found = decode(content)
    assert found is not None
    assert found.text == text


@given(st.binary(max_size=300))
def test_any_bytes_give_text_or_none(content):
    found = decode(content)
    assert found is None or "\r" not in found.text


def test_compressed_bytes_are_not_text():
    import zlib

    packed = zlib.compress(random.Random(0).randbytes(5000))
    assert is_binary(packed) or decode(packed) is None


@pytest.mark.parametrize("encoding", ["shift_jis", "gb18030", "koi8_r", "euc_kr"])
def test_other_scripts_are_not_taken_for_latin(encoding):
    words = {
        "shift_jis": "日本語の文章",
        "gb18030": "中文文本",
        "koi8_r": "привет мир",
        "euc_kr": "한국어",
    }
    assert decode((words[encoding] + "\n").encode(encoding) * 20) is None


def test_terminal_recordings_are_not_text():
    assert decode(b"\x01\x02\x03\x04\x05\x06 text" * 100) is None
    assert decode(b"page one\n\x0cpage two \x1b[1mbold\x1b[0m\n") is not None
