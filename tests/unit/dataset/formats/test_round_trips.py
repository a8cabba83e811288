"""What is written in any format is read back the same, whatever the text."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.dataset.formats import read_set, write_set
from codetune.dataset.formats.sets import example_id
from codetune.errors import DatasetError
from codetune.records import Example, Provenance

WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
PAIR = st.tuples(WORD, WORD)
CONVERSATION = st.tuples(st.one_of(st.just(""), WORD), st.lists(PAIR, min_size=1, max_size=3))
CONTAINERS = [".jsonl", ".json", ".csv", ".parquet", ""]


def example(messages: list[dict[str, str]]) -> Example:
    source = Provenance("set", None, "file", (1, 1), "unknown")
    return Example(example_id(messages), "sft", source, messages=tuple(messages))


def conversation(value: tuple[str, list[tuple[str, str]]]) -> Example:
    system, pairs = value
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in pairs:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return example(messages)


def plain(examples: list[Example]) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in e.messages or ()] for e in examples]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("layout", ["messages", "sharegpt", "alpaca", "prompt-completion"])
@settings(max_examples=15, deadline=None)
@given(conversations=st.lists(CONVERSATION, min_size=1, max_size=4))
def test_conversations(
    layout: str, suffix: str, conversations: list[tuple[str, list[tuple[str, str]]]]
) -> None:
    if layout == "prompt-completion":
        conversations = [(system, pairs[:1]) for system, pairs in conversations]
    examples = [conversation(value) for value in conversations]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"set{suffix}"
        assert write_set(path, examples, layout) == len(examples)  # type: ignore[arg-type]
        read = list(read_set(path, format="auto" if examples else layout))
        assert plain(read) == plain(examples)
        assert [one.id for one in read] == [one.id for one in examples]
        assert {file.name for file in Path(folder).iterdir()} == {path.name}


@pytest.mark.parametrize("suffix", CONTAINERS)
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(WORD, min_size=1, max_size=4))
def test_texts(suffix: str, texts: list[str]) -> None:
    source = Provenance("set", None, "file", (1, 1), "unknown")
    examples = [Example(example_id(t), "ntp", source, text=t, ends_file=True) for t in texts]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"set{suffix}"
        write_set(path, examples, "text")
        read = list(read_set(path))
        assert [one.text for one in read] == texts
        assert all(one.ends_file and one.messages is None for one in read)


def test_an_input_of_its_own_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"instruction": "Sum", "input": "1 2", "output": "3"}]')
    (one,) = read_set(tmp_path / "a.json")
    assert one.messages is not None
    assert one.messages[0]["content"] == "Sum\n\n1 2"
    write_set(tmp_path / "b.jsonl", [one], "alpaca")
    text = (tmp_path / "b.jsonl").read_text()
    assert '"instruction": "Sum", "input": "1 2", "output": "3"' in text


def test_what_has_no_such_form_is_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    three = example([*turns, {"role": "assistant", "content": "c"}])
    for layout, one in [
        ("alpaca", three),
        ("prompt-completion", example(turns * 2)),
        ("text", three),
    ]:
        with pytest.raises(DatasetError):
            write_set(tmp_path / "a.jsonl", [example(turns), one], layout)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())
    with pytest.raises(DatasetError, match="suffix"):
        write_set(tmp_path / "a.xml", [three], "messages")
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(DatasetError, match="exists already"):
        write_set(tmp_path / "there.jsonl", [three], "messages")
    assert (tmp_path / "there.jsonl").read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out.jsonl", "out.parquet"])
def test_what_a_killed_run_left_is_written_over(name: str, tmp_path: Path) -> None:
    left = tmp_path / f".{name}.partial"
    if name == "out":
        left.mkdir()
        (left / "data-00000-of-00001.arrow").write_bytes(b"half")
    else:
        left.write_bytes(b"half")
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert write_set(tmp_path / name, [example(said)], "messages") == 1
    assert plain(list(read_set(tmp_path / name))) == [[("user", "q"), ("assistant", "a")]]
    assert not left.exists()
