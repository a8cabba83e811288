"""Which passages and gaps are scored, and how much of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetune.artifacts import Artifact
from codetune.errors import EvaluationError
from codetune.evaluation.samples import first_bytes, held_out_gaps, held_out_passages


def write(file: Path, rows: list[dict[str, object]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def text_rows(count: int, text: str) -> list[dict[str, object]]:
    where = {"repo": "r", "language": "python", "split": "file", "context": "before\n" * 1000}
    return [
        {"id": f"i{n}", "path": f"{n}.py", **where, "text": text, "bytes": len(text.encode())}
        for n in range(count)
    ]


def take(file: Path, **changes: int) -> list[tuple[str, int]]:
    arguments = {"limit": 10_000, "per_region": 10_000, "window": 64, "seed": 0, **changes}
    return [(p.id, len(p.text.encode())) for p in held_out_passages(file, **arguments)]


def test_the_limit_is_held_to_the_byte(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", text_rows(50, "x" * 1000))
    found = take(file, limit=3500)
    assert sum(size for _, size in found) == 3500
    assert [size for _, size in found] == [1000, 1000, 1000, 500]


def test_a_long_region_does_not_eat_the_sample(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", text_rows(50, "x" * 1000))
    assert [size for _, size in take(file, limit=3500, per_region=700)] == [700] * 5


def test_letters_are_not_cut_apart() -> None:
    assert first_bytes("aé✓", 1) == "a"
    assert first_bytes("aé✓", 2) == "a"
    assert first_bytes("aé✓", 5) == "aé"
    assert first_bytes("aé✓", 6) == "aé✓"


def test_a_larger_sample_contains_the_smaller_and_seeds_differ(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", text_rows(60, "x" * 100))
    few, many = take(file, limit=1000), take(file, limit=3000)
    assert many[: len(few)] == few
    assert take(file, limit=1000, seed=1) != few
    backwards = write(tmp_path / "b.parquet", text_rows(60, "x" * 100)[::-1])
    assert take(backwards, limit=1000) == few  # the order of the file does not matter


def test_far_context_is_left_out(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", text_rows(1, "x"))
    [passage] = held_out_passages(file, limit=9, per_region=9, window=64, seed=0)
    assert len(passage.context) == 64 * 16
    assert passage.context[-70:] == "before\n" * 10 + ""


def test_gaps_are_a_sample_in_a_fixed_order(dataset: Artifact) -> None:
    file = dataset / "heldout_fim.parquet"
    everything = held_out_gaps(file, limit=99, seed=0)
    assert len(everything) == 12
    assert held_out_gaps(file, limit=5, seed=0) == everything[:5]
    assert everything[0].cluster == f"github.com/x/y\n{everything[0].path}"


@pytest.mark.parametrize("rows", [[], text_rows(3, "")])
def test_nothing_held_out_is_refused(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.Table.from_pylist(text_rows(1, "x")).schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "t.parquet")
    with pytest.raises(EvaluationError, match="holds out no code"):
        take(tmp_path / "t.parquet")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"not parquet")
    with pytest.raises(EvaluationError, match=r"t\.parquet cannot be read"):
        take(tmp_path / "t.parquet")
    with pytest.raises(EvaluationError, match=r"none\.parquet cannot be read"):
        held_out_gaps(tmp_path / "none.parquet", limit=1, seed=0)
