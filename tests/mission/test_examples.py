"""The examples of the repository run as their files say; the bases are tiny ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
PIPELINE = EXAMPLES / "repository_pipeline"
FEW = ["--set", "training.max_steps=3", "--set", "training.batch_tokens=2048"]
FEW += ["--set", "dataset.window=512", "--set", "evaluation.text_bytes=4096"]
FEW += ["--set", "evaluation.fim_prompts=4", "--set", "evaluation.general_bytes=2048"]


def run(command: list[str], home: Path, **more: str) -> str:
    """The program's output; its own `codetune` is the one under test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "CODETUNE_HOME": str(home), "PATH": path, **more}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quick_start_of_the_repository_pipeline(shop: Path, base: str, tmp_path: Path) -> None:
    """Training data first, then an adapter with the guide's own YAML, on one home."""
    pytest.importorskip("bitsandbytes")
    home, data = tmp_path / "home", tmp_path / "data"
    make = [sys.executable, str(PIPELINE / "generate_training_data.py"), str(shop)]
    said = run([*make, "--base", base, "--output", str(data)], home)
    rows = [json.loads(line) for line in (data / "sft.jsonl").read_text().splitlines()]
    assert len(rows) > 60 and f"{len(rows)}" in said
    assert all(row["instruction"] and row["output"] for row in rows)
    readable = json.loads((data / "sft_readable.json").read_text())
    assert sum(map(len, readable.values())) == len(rows)

    train = [str(PIPELINE / "train_adapter.sh"), str(shop), "--base", base, "--name", "shop"]
    out = tmp_path / "out"
    said = run([*train, *FEW], home, OUT=str(out))
    assert "shop:1" in said and (out / "training.log").read_text() == said
    (card,) = (json.loads(file.read_text()) for file in home.glob("models/*/card.json"))
    assert (card["method"], card["kind"], card["shares_batches"]) == ("qlora", "adapter", True)
    (config,) = (
        json.loads(file.read_text()) for file in home.glob("models/*/model/adapter_config.json")
    )
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 32, 0.05)


def test_its_yaml_is_the_one_of_the_guide() -> None:
    """As it stands in the guide, key for key."""
    assert yaml.safe_load((PIPELINE / "axolotl.yaml").read_text()) == {
        "base_model": "Qwen/Qwen2-7B-Instruct",
        "load_in_4bit": True,
        "num_epochs": 2,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "learning_rate": 2.0e-4,
        "lora": {"r": 16, "alpha": 32, "dropout": 0.05},
    }


def test_python_example_trains_and_answers(gpt2: str, tmp_path: Path) -> None:
    """With a tiny GPT-2, the family of the default model."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for topic in ("basket", "invoice", "parcel", "ledger", "voucher"):
        (texts / f"{topic}.md").write_text(
            f"# The {topic}\n\n"
            + "\n\n".join(f"Rule {n} of a {topic}: write {n * len(topic)}." for n in range(40))
        )
    command = [sys.executable, str(EXAMPLES / "peft_adapter.py"), str(texts)]
    said = run([*command, "--model", gpt2, "--epochs", "1"], tmp_path / "home")
    first, _, best = said.splitlines()[0].removeprefix("Loss on texts held out: ").partition(" → ")
    assert float(best) < float(first)
    assert len(said.splitlines()) >= 2
