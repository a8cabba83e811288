"""§2 of the mission, row by row: what training data is made of a real repository."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from codetune.artifacts import Artifact
from codetune.cli.data import data
from codetune.dataset.table import read_examples
from codetune.errors import CodetuneError
from codetune.models.prompts import Renderer
from codetune.models.tokens import TokenStore
from tests.mission.runs import journey
from tests.unit.dataset.teachers import endpoint, worded
from tests.unit.models.tiny_families import WITH_FIM, write_base

pytestmark = pytest.mark.usefixtures("home")
GOOD = [{"instruction": f"Add {n} to a.", "output": f"def add(a):\n    return a + {n}"}
        for n in range(60)]  # fmt: skip


def built(shop: Path, base: str, **options: Any) -> Artifact:
    return journey(shop, base, **options).build()


def streams(dataset: Artifact) -> set[str]:
    return {name for name, tokens in dataset.summary["tokens_by_stream"].items() if tokens}


def test_ntp_and_fim_switched_and_by_source(shop: Path, base: str) -> None:
    both = built(shop, base, dataset__replay_share=0.0)
    assert streams(both) == {"ntp", "fim"}
    assert set(both.summary["languages"]) == {"python", "markdown"}
    ntp = built(shop, base, dataset__use_fim=False, dataset__train_on_docs=False)
    assert streams(ntp) == {"ntp", "replay"}
    assert set(ntp.summary["languages"]) == {"python"}
    fim = built(shop, base, dataset__use_ntp=False, dataset__replay_share=0.0)
    assert streams(fim) == {"fim"}
    # Character and syntax-tree spans, both orders.
    kinds = both.summary["fim_kinds"]
    assert any(kind.startswith("syntax:") for kind in kinds) and "random" in kinds
    assert set(both.summary["fim_orders"]) == {"psm", "spm"}


@pytest.mark.parametrize("family", WITH_FIM)
def test_fim_in_the_tokens_of_each_family(family: str, shop: Path, tmp_path: Path) -> None:
    """What is trained on is what the server will ask with; the end comes at a file's end alone."""
    folder = write_base(tmp_path / family, family)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    from codetune.dataset.build import build
    from codetune.progress import Progress

    source = journey(shop, str(folder), dataset__replay_share=0.0, dataset__spm_rate=0.0)
    dataset = build(
        source.clean(), source.repository(), folder, source.config.dataset, tmp_path, Progress()
    )
    renderer, store = Renderer.from_folder(folder), TokenStore.open(dataset / "tokens")
    seen = 0
    for number, example in enumerate(read_examples(dataset / "examples.parquet")):
        ids = np.asarray(store[number][0]).tolist()
        if example.stream == "ntp":
            # DeepSeek's FIM tokens and a file's end are other ids than a text's.
            assert (ids[-1] == renderer.eos_id) == example.ends_file
            assert renderer.eos_id not in ids[:-1]
            continue
        assert example.fim is not None
        where = {"repo": example.source.repo, "path": example.source.path}
        prompts = [
            renderer.fim_prompt(example.fim.prefix, example.fim.suffix, **names)
            for names in ({}, where)
        ]
        assert any(ids[: len(prompt)] == prompt for prompt in prompts)
        seen += 1
    assert seen > 3


def test_instructions_with_real_answers(shop: Path, base: str) -> None:
    """explain, complete, document, test, commit, question: JSON lines and a readable JSON."""
    import subprocess

    dataset = built(shop, base, dataset__use_sft=True)
    rows = [json.loads(line) for line in (dataset / "sft.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {
        *("explain", "complete", "document", "test", "commit", "question")
    }
    history = subprocess.run(
        ["git", "log", "-p", "--all"], cwd=shop, check=True, capture_output=True, text=True
    ).stdout
    for row in rows:
        lines = [line.strip(" +-") for line in row["output"].splitlines()]
        missing = [line for line in lines if line and line not in history]
        assert all(line.startswith(("@@", "--- ", "+++ ")) for line in missing), row
    readable = json.loads((dataset / "sft_readable.json").read_text())
    assert sum(map(len, readable.values())) == len(rows)


def test_documents_are_cut_between_sentences(shop: Path, base: str) -> None:
    """No text is lost, code blocks stay whole, no piece is longer than the window."""
    dataset = built(shop, base, dataset__window=256, dataset__use_fim=False)
    pieces = [
        example
        for example in read_examples(dataset / "examples.parquet")
        if example.source.path == "README.md"
    ]
    text = "".join(example.text for example in pieces)
    assert len(pieces) > 2 and text.startswith("# The shop")
    assert all(piece.text.count("```") % 2 == 0 for piece in pieces)
    store = TokenStore.open(dataset / "tokens")
    assert max(store.lengths) <= 256


def test_instructions_worded_by_a_model(shop: Path, base: str, tmp_path: Path) -> None:
    with endpoint(lambda _, request: worded(request)) as (url, asked):
        dataset = built(
            shop,
            base,
            dataset__use_sft=True,
            dataset__instructions__kinds=("document",),
            dataset__instructions__teacher__url=url,
            dataset__instructions__teacher__most=7,
        )
    sizes = [len(json.loads(request["messages"][-1]["content"])["items"]) for _, request in asked]
    assert sorted(sizes) == [1, 3, 3]
    rows = [json.loads(line) for line in (dataset / "sft.jsonl").read_text().splitlines()]
    assert sum(row["instruction"].startswith("Please: ") for row in rows) == 7
    assert dataset.summary["teacher"]["reworded"] == 7


def test_public_sets_are_mixed_in_by_share(shop: Path, base: str, tmp_path: Path) -> None:
    """JSON lines in Alpaca's fields, CSV, ShareGPT's conversations; a bad row is named."""
    alpaca, table, chats = (tmp_path / name for name in ("a.jsonl", "b.csv", "c.json"))
    alpaca.write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows({"question": f"What is {n} less than ten?", "answer": f"It is {10 - n}."}
                         for n in range(30))  # fmt: skip
    turns = [{"from": "human", "value": "Who writes {n}?"}, {"from": "gpt", "value": "Clerk {n}."}]
    chats.write_text(
        json.dumps(
            [
                {"conversations": [t | {"value": t["value"].format(n=n)} for t in turns]}
                for n in range(30)
            ]
        )
    )
    columns = {"instruction": "question", "output": "answer"}
    mix = [
        {"name": "alpaca", "path": str(alpaca), "share": 0.2},
        {"name": "table", "path": str(table), "share": 0.05, "columns": columns},
        {"name": "chats", "path": str(chats), "share": 0.05},
    ]
    dataset = built(shop, base, dataset__mix=mix)
    manifest = json.loads((dataset / "mix.json").read_text())
    reached = {entry["name"]: entry["share_reached"] for entry in manifest["streams"]}
    assert reached["alpaca"] == pytest.approx(0.2, abs=0.06)
    assert {"ntp", "fim", "replay", "alpaca", "table", "chats"} <= reached.keys()
    alpaca.write_text(json.dumps(GOOD[0]) + "\n" + json.dumps({"instruction": "No answer."}) + "\n")
    with pytest.raises(CodetuneError, match=r"a\.jsonl.*row 2.*output"):
        built(shop, base, dataset__mix=[mix[0]])


def test_samples_are_reviewed_and_validated(shop: Path, base: str, tmp_path: Path) -> None:
    dataset = built(shop, base, dataset__use_sft=True)
    sample, decisions = tmp_path / "sample.jsonl", tmp_path / "review.jsonl"
    arguments = ["review", str(dataset.path), "--stream", "sft", "--sample", "4"]
    assert CliRunner().invoke(data, [*arguments, "--export", str(sample)]).exit_code == 0
    rows = [json.loads(line) for line in sample.read_text().splitlines()]
    rows[0]["verdict"] = "drop"
    sample.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments += ["--import", str(sample), "--review", str(decisions)]
    assert CliRunner().invoke(data, arguments).exit_code == 0
    again = built(shop, base, dataset__use_sft=True, dataset__review=str(decisions))
    assert again.summary["examples"]["sft"] == dataset.summary["examples"]["sft"] - 1
    done = CliRunner().invoke(data, ["validate", str(dataset / "sft.jsonl")])
    assert done.exit_code == 0 and "no bad row" in done.output
