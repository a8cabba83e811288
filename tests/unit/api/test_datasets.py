"""Datasets over HTTP: what is refused, and how much of one is shown."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.api.management import Office

UPLOAD = "POST /api/v1/datasets/upload"


def parquet(text: Any) -> bytes:
    """A file with one column of texts."""
    data = io.BytesIO()
    pq.write_table(pa.table({"text": text}), data, compression="zstd")
    return data.getvalue()


def repeated(text: str, times: int) -> bytes:
    """The same text in every row, stored once."""
    rows = pa.array([0] * times, pa.int32())
    return parquet(pa.DictionaryArray.from_arrays(rows, pa.array([text])))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: repeated("a" * 2_000_000, 2000), id="many rows of one text"),
        pytest.param(lambda: parquet(["a" * 150_000_000]), id="one long row"),
    ],
)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(team: Office, data: Any) -> None:
    file = {"file": ("bomb.parquet", data())}
    tracemalloc.start()
    try:
        answer = team("ada", UPLOAD, 422, files=file)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "more than 1000 times its size" in answer.json()["error"]["message"]
    assert most < 30_000_000
    assert team("ada", "GET /api/v1/datasets", 200).json()["total"] == 0


def test_a_preview_cuts_long_texts_and_ends_before_it_is_too_long(team: Office) -> None:
    sent = {"file": ("long.parquet", repeated("a" * 50_000, 500))}
    made = team("ada", UPLOAD, 201, files=sent).json()
    assert made["characters"] == 25_000_000
    page = f"GET /api/v1/datasets/{made['id']}/preview?limit=400"
    first = team("ada", page, 200).json()
    assert len(first["items"]) == 200 and first["total"] == 500
    assert {(len(row["text"]), row["cut"]) for row in first["items"]} == {(20_000, True)}
    rest = team("ada", f"{page}&offset=450", 200).json()["items"]
    assert [row["row"] for row in rest] == list(range(451, 501))


def test_a_preview_cuts_conversations(team: Office) -> None:
    def talk(*contents: str) -> str:
        roles = ("user", "assistant") * len(contents)
        turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
        return json.dumps({"messages": turns})

    rows = [talk("q", "a"), talk("q" * 12_000, "a" * 12_000, "q", "a")]
    sent = {"file": ("talk.jsonl", "\n".join(rows).encode())}
    made = team("ada", UPLOAD, 201, files=sent).json()
    short, long = team("ada", f"GET /api/v1/datasets/{made['id']}/preview", 200).json()["items"]
    assert (short["cut"], len(short["messages"])) == (False, 2)
    assert [len(turn["content"]) for turn in long["messages"]] == [12_000, 20_000 - 12_000 - 13]
    assert long["cut"]


def test_advice_names_what_the_form_has(team: Office) -> None:
    latin = {"file": ("rows.jsonl", json.dumps({"text": "Zoë"}, ensure_ascii=False).encode("l1"))}
    said = team("ada", UPLOAD, 422, files=latin).json()["error"]["message"]
    assert "(encoding: latin-1). Mend these rows, name the columns (columns: " in said
    assert "--" not in said and "skip_bad" not in said
    made = team("ada", UPLOAD, 201, files=latin, data={"encoding": "latin-1"}).json()
    page = team("ada", f"GET /api/v1/datasets/{made['id']}/preview", 200).json()
    assert page["items"][0]["text"] == "Zoë"
    for wrong in ("a\0b", "klingon", "rot13"):
        team("ada", UPLOAD, 422, files=latin, data={"encoding": wrong})
    other = {"file": ("rows.jsonl", b'{"question": "q"}')}
    assert "--column" not in team("ada", UPLOAD, 422, files=other).text
