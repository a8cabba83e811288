"""The paths that earlier systems documented, without model work: datasets, jobs, documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.api.management import Office, repository

ROWS = [{"instruction": f"Add {n}", "output": f"a + {n}"} for n in range(5)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def test_a_dataset_is_sent_looked_at_mixed_in_and_deleted(team: Office, tmp_path: Path) -> None:
    sent = {"file": ("rows.jsonl", JSONL)}
    made = team("ada", "POST /api/v1/datasets/upload", 201, files=sent).json()
    assert (made["rows"], made["size"], made["name"]) == (5, len(JSONL), "rows.jsonl")
    path = f"/api/v1/datasets/{made['id']}"
    page = team("ada", f"GET {path}/preview?limit=2&offset=3", 200).json()
    assert (page["total"], [row["row"] for row in page["items"]]) == (5, [4, 5])
    assert page["items"][0]["messages"][1] == {"role": "assistant", "content": "a + 3"}
    for route in (f"GET {path}", f"GET {path}/preview", f"DELETE {path}"):
        team("bob", route, 404)
    order = {"source": "https://git.example.com/a/b", "datasets": [{"id": made["id"]}]}
    team("bob", "POST /api/v1/tuning", 404, json=order)
    job = team("ada", "POST /api/v1/tuning", 202, json=order).json()
    (mixed,) = job["config"]["dataset"]["mix"]
    assert mixed["path"] == f"datasets/{made['id']}/rows.jsonl" and mixed["weight"] == 1.0
    assert str(tmp_path) not in json.dumps(job)
    team("ada", f"DELETE {path}", 409)
    team("ada", f"POST /api/v1/tuning/{job['id']}/cancel", 202)
    team("ada", f"DELETE {path}", 204)
    assert team("ada", "GET /api/v1/datasets/", 200).json()["total"] == 0
    assert not list((tmp_path / "home/datasets").iterdir())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "rows.jsonl",
            JSONL + b'{"instruction": 5, "output": "x"}\n',
            "row 6, field 'instruction'",
        ),
        ("rows.csv", b"instruction,output\nAdd,\n", "row 2, field 'output'"),
        ("rows.jsonl", b"{]\n", "row 1"),
        ("rows.jsonl", b'{"a\\ud800b": "x"}\n', "columns a\\ud800b"),
        ("rows.parquet", b"PAR1 no", "rows.parquet"),
        ("rows.jsonl", b"", "rows.jsonl"),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    team: Office, tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    answer = team("ada", "POST /api/v1/datasets/upload", 422, files={"file": (name, data)})
    assert said in answer.json()["error"]["message"]
    assert str(tmp_path) not in answer.text
    assert not list((tmp_path / "home/datasets").iterdir())


def test_an_upload_under_a_key_is_kept_once(team: Office) -> None:
    key = {"Idempotency-Key": "k"}
    route = "POST /api/v1/datasets/upload"
    first = team("ada", route, 201, files={"file": ("a.jsonl", JSONL)}, headers=key)
    again = team("ada", route, 201, files={"file": ("a.jsonl", JSONL)}, headers=key)
    assert again.json() == first.json()
    team("ada", route, 409, files={"file": ("a.jsonl", JSONL * 2)}, headers=key)
    assert team("ada", "GET /api/v1/datasets", 200).json()["total"] == 1


def test_the_pipelines_calls_speak_of_what_was_ingested_last(alone: Office, tmp_path: Path) -> None:
    alone(None, "POST /fine-tune/start", 409)
    shop = repository(tmp_path / "shop")
    made = alone(None, "POST /ingest", 202, json={"source": str(shop)}).json()
    job = alone(None, f"GET {made['status_endpoint']}", 200).json()
    assert (job["kind"], job["source"]) == ("ingest", str(shop))
    kinds = [
        alone(None, f"GET {alone(None, f'POST /fine-tune/{verb}', 202).json()['status_endpoint']}")
        for verb in ("generate-data", "start")
    ]
    assert [answer.json()["kind"] for answer in kinds] == ["dataset", "tune"]
    assert alone(None, "GET /ingest/status", 200).json()["total"] == 3
    assert alone(None, "GET /api/v1/ingest", 200).json()["total"] == 2
    info = alone(None, "GET /models/info", 200).json()
    assert info["fine_tuned"] is None and "tiny" in info["models"]
    alone(None, "POST /query", 409, json={"q": "What?", "model": "fine-tuned"})
    alone(None, "POST /query?model=fine-tuned", 409, json={"q": "What?"})
    alone(None, "POST /query", 404, json={"q": "What?", "model": "gemini"})
    alone(None, "POST /query?model=a", 422, json={"q": "What?", "model": "b"})
    body = {"q": "What?", "model": "tiny", "max_tokens": 2}
    assert alone(None, "POST /query", 200, json=body).json()["model"] == "tiny"


def test_documents_grow_in_one_folder(team: Office, tmp_path: Path) -> None:
    team("ada", "POST /fine-tuning/setup", 409)
    team("ada", "POST /documents", 422)
    first = team("ada", "POST /documents", 201, files={"file": ("a.md", b"# A\n")}).json()
    more = [("files", ("b.md", b"# B\n")), ("files", ("../a.md", b"# A again\n"))]
    second = team("ada", "POST /documents", 201, files=more).json()
    assert second == {"source_id": first["source_id"], "documents": 2}
    folder = tmp_path / "home/uploads" / first["source_id"]
    assert (folder / "a.md").read_text() == "# A again\n"
    for data in (b"%PDF\xff\xfe", b"a\0b", b"\xc3"):
        team("ada", "POST /documents", 422, files={"file": ("c.md", data)})
    team("ada", "POST /fine-tuning/setup", 422, json={"config": {"corpus": "x"}})
    team("ada", "POST /fine-tuning/setup", 202, json={"config": {"dataset": None}})
    status = team("ada", "GET /fine-tuning/status", 200).json()
    assert (status["trained"], status["available"], status["job"]["state"]) == (
        False,
        False,
        "queued",
    )
    assert team("bob", "GET /fine-tuning/status", 200).json()["job"] is None
    team("bob", "POST /fine-tuning/setup", 409)
    team("ada", "POST /fine-tuning/query", 404, data={"query": "What?"})
    assert sorted(path.name for path in folder.parent.iterdir()) == [first["source_id"]]
