"""Tables of Python values."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from codetune.tables import TableWriter, array_of, read_rows, read_rows_where, take


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "", None, "größe 🙂"], pa.string()),
        ([b"\0\xff", None, b""], pa.binary()),
        ([True, None, False] * 5, pa.bool_()),
        ([1, None, -(2**62), 0], pa.int64()),
        ([1.5, None, 0.0], pa.float64()),
        ([None, None], pa.string()),
        ([], pa.string()),
        ([], pa.int64()),
    ],
)
def test_arrays_are_those_of_pyarrow(values: list[object], kind: pa.DataType) -> None:
    array = array_of(values, kind)
    array.validate(full=True)
    assert array.equals(pa.array(values, kind))


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [{"name": f"n{n}", "content": bytes([n]) * n, "kept": n % 2 == 0} for n in range(99)]
    path = tmp_path / "table.parquet"
    with TableWriter(path, {"name": "string", "content": "binary", "kept": "bool"}) as table:
        for row in rows:
            table.write(row, size=1_000_000)
    assert list(read_rows(path)) == rows
    assert list(read_rows_where(path, "name", lambda name: name in ("n3", "n70"))) == [
        rows[3],
        rows[70],
    ]
    assert take(pa.table({"a": [5, 6, 7]}), [2, 0])["a"].to_pylist() == [7, 5]
