"""Parquet and Arrow files: what a value is that Python cannot hold, and whom it concerns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codetune.dataset.formats import Problems, read_set
from codetune.errors import DatasetError

KINDS = ("a.parquet", "a.arrow")


def stored(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return path


def not_utf_8() -> pa.Array:
    """Three texts; the second one is none."""
    offsets = pa.array([0, 1, 4, 5], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"xa\xffby")])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**52], pa.timestamp("ms")),
        pa.array([2**62 + 1], pa.timestamp("ns")),
        pa.array([2**62], pa.duration("ms")),
        not_utf_8().slice(1, 1),
    ],
    ids=["late", "nanoseconds", "long", "bytes"],
)
def test_a_column_that_no_layout_uses_is_no_matter(name: str, values: Any, tmp_path: Path) -> None:
    table = pa.table({"when": values, "instruction": ["q"], "output": ["a"]})
    (example,) = read_set(stored(tmp_path / name, table))
    assert example.messages is not None
    assert [message["content"] for message in example.messages] == ["q", "a"]


@pytest.mark.parametrize("name", KINDS)
def test_a_value_that_cannot_be_read_is_one_bad_row(name: str, tmp_path: Path) -> None:
    questions = pa.array([f"q{n}" for n in range(3)])
    path = stored(tmp_path / name, pa.table({"prompt": questions, "answer": not_utf_8()}))
    problems = Problems(stop=False)
    found = list(read_set(path, columns={"completion": "answer"}, problems=problems))
    assert [example.source.span[0] for example in found] == [1, 3]
    (problem,) = problems.first
    assert str(problem).startswith(f"{name}, row 2, field 'answer': cannot be read: 'utf-8'")


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_counted_across_batches(name: str, tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(300)]
    path = stored(tmp_path / name, pa.table({"text": texts, "meta": [{"a": 1}] * 300}))
    assert [(one.text, one.source.span[0]) for one in read_set(path)] == [
        (text, number) for number, text in enumerate(texts, 1)
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_column_that_is_there_twice(name: str, tmp_path: Path) -> None:
    columns = [pa.array([value]) for value in ("q", "a", "b", "c", "d")]
    names = ["prompt", "completion", "completion", "other", "other"]
    path = stored(tmp_path / name, pa.Table.from_arrays(columns, names=names))
    problems = Problems(stop=False)
    assert list(read_set(path, problems=problems)) == []
    assert [str(problem) for problem in problems.first] == [
        f"{name}, field 'completion': names more than one column"
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_table_without_rows(name: str, tmp_path: Path) -> None:
    path = stored(tmp_path / name, pa.table({"text": pa.array([], pa.string())}))
    with pytest.raises(DatasetError, match=r"holds no rows\."):
        list(read_set(path))
