"""Sets mixed into a repository's dataset: manifest, streams, template, leakage, review."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codetune.dataset.review import Decision, append_decision
from codetune.dataset.table import read_examples
from codetune.errors import DatasetError, ModelError
from codetune.models.tokens import TokenStore
from codetune.tables import read_rows
from tests.unit.dataset.corpora import built, code, document
from tests.unit.dataset.test_mix import jsonl, rows

DOCUMENTS = [document(f"shop/part{n}.py", code(n)) for n in range(24)]


def test_a_mixed_dataset(tmp_path: Path) -> None:
    plain = built(tmp_path / "plain", DOCUMENTS)
    held = next(read_rows(plain / "heldout.parquet"))["text"]
    assert not (plain / "chat_template.jinja").exists()
    entries = [*rows(1, 200), {"instruction": "Write it.", "output": held[:500]}]
    mix = [{"name": "chats", "path": jsonl(tmp_path / "a.jsonl", entries), "share": 0.25}]
    made = built(tmp_path / "mixed", DOCUMENTS, mix=mix, replay_share=0.2)
    record = json.loads((made / "mix.json").read_text())
    streams = {stream["name"]: stream for stream in record["streams"]}
    assert list(streams) == ["ntp", "fim", "replay", "chats"]
    assert streams["chats"]["share_reached"] == pytest.approx(0.25, abs=0.01)
    assert streams["chats"]["dropped"] == {"holds held-out text": 1}
    assert len(streams["chats"]["source_digest"]) == 64
    assert sum(stream["share_wanted"] for stream in record["streams"]) == pytest.approx(1)
    assert streams["replay"]["share_reached"] == pytest.approx(0.75 * 0.2, abs=0.05)
    store = TokenStore.open(made / "tokens")
    assert record["tokens"] == store.tokens == made.summary["tokens"]
    assert made.summary["tokens_by_stream"]["chats"] == streams["chats"]["tokens"]
    assert made.summary["leaked"] == 0
    examples = list(read_examples(made / "examples.parquet"))
    assert len(examples) == len(store)
    assert [store.stream_names[n] for n in store.streams] == [e.stream for e in examples]
    validation = TokenStore.open(made / "validation")
    found = {validation.stream_names[n] for n in validation.streams}
    assert found == {"ntp", "fim", "chats"}
    assert validation.tokens == made.summary["validation_tokens"]
    assert "<|im_start|>" in (made / "chat_template.jinja").read_text()
    # What the repository itself gives does not depend on what is mixed in.
    old = TokenStore.open(plain / "tokens")
    assert [store[n][0].tolist() for n in range(len(old))] == [
        old[n][0].tolist() for n in range(len(old))
    ]


def test_the_template_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    mix = [{"name": "chats", "path": jsonl(tmp_path / "a.jsonl", rows(1, 60, 12)), "share": 0.2}]
    made = built(tmp_path / "alpaca", DOCUMENTS, mix=mix, template="alpaca")
    assert "### Response:" in (made / "chat_template.jinja").read_text()
    with pytest.raises(ModelError, match="no chat template of its own"):
        built(tmp_path / "base", DOCUMENTS, mix=mix, template="base")
    with pytest.raises(ModelError, match="ChatML needs"):
        built(tmp_path / "gpt2", DOCUMENTS, family="gpt2", mix=mix, template="chatml")


def test_a_review_of_the_repository_s_own(tmp_path: Path) -> None:
    before = list(read_examples(built(tmp_path / "a", DOCUMENTS) / "examples.parquet"))
    review = tmp_path / "review.jsonl"
    gone = [example.id for example in before if example.stream in ("ntp", "fim")][::3]
    for name in gone:
        append_decision(review, Decision(name, "drop"))
    after = list(
        read_examples(built(tmp_path / "a", DOCUMENTS, review=str(review)) / "examples.parquet")
    )
    assert [e.id for e in after] == [e.id for e in before if e.id not in gone]


def test_what_cannot_be_read_stops_before_anything_is_written(tmp_path: Path) -> None:
    mix = [{"name": "chats", "path": str(tmp_path / "nowhere.jsonl"), "share": 0.2}]
    with pytest.raises(DatasetError, match="does not exist"):
        built(tmp_path / "a", DOCUMENTS, mix=mix)
    with pytest.raises(DatasetError, match="cannot be read"):
        built(tmp_path / "a", DOCUMENTS, review=str(tmp_path / "nowhere"))
    assert not list((tmp_path / "a" / "datasets").glob("*"))


def test_another_content_is_another_dataset(tmp_path: Path) -> None:
    mix = [{"name": "chats", "path": jsonl(tmp_path / "a.jsonl", rows(1, 60)), "share": 0.2}]
    one = built(tmp_path / "a", DOCUMENTS, mix=mix)
    assert built(tmp_path / "a", DOCUMENTS, mix=mix).digest == one.digest
    jsonl(tmp_path / "a.jsonl", rows(2, 60))
    assert built(tmp_path / "a", DOCUMENTS, mix=mix).digest != one.digest
