"""`codetune tune --search` as a user runs it: killed, started again, and looked at afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clock import AT_ONCE
from tests.journey.team import Codetune, make_repository
from tests.unit.evaluation.conftest import write_tokenizer

# Few steps of a tiny random model: the point is the way, not the result.
TINY = [
    "--search", "3",
    "--set", "search.startup=1",
    "--set", "search.learning_rate=[0.0001, 0.02]",
    "--set", "search.parameters=[learning_rate, rank, fim]",
    "--set", "training.max_steps=8",
    "--set", "training.batch_tokens=512",
    "--set", "training.micro_batch_tokens=512",
    "--set", "training.validate_every=2",
    "--set", "training.validation_tokens=2000",
    "--set", "training.learning_rate=0.01",
    "--set", "training.rank=16",
    "--set", "training.checkpoint_seconds=0",
    "--set", "training.forgetting_limit=null",
    "--set", "dataset.window=128",
    "--set", "dataset.replay_share=0",
    "--set", "evaluation.fim_prompts=1",
    "--set", "evaluation.general_bytes=0",
    "--set", "evaluation.text_bytes=2048",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("bases") / "tiny"
    folder.mkdir()
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=write_tokenizer(folder),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=0,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def trials_of(home: Path) -> list[dict[str, Any]]:
    """The trials of the one search in this home, without their times."""
    (file,) = home.glob("projects/*/searches/*/trials.json")
    trials = json.loads(file.read_text())["trials"]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in trials]


def killed_within_trial(number: int, command: list[str], home: Path, by: int) -> tuple[float, str]:
    """Start, wait for a checkpoint of this trial's run, send a signal; seconds until the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "codetune", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CODETUNE_HOME": str(home)},
    )
    deadline = time.monotonic() + 280
    while not (
        len(list(home.glob("projects/*/runs/*/manifest.json"))) == number
        and list(home.glob("projects/*/runs/.*.partial/checkpoints/step-*"))
    ):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(by)
    start = time.monotonic()
    _, errors = process.communicate(timeout=20)
    return time.monotonic() - start, errors


@pytest.mark.slow
@pytest.mark.timeout(1200)  # seven commands: minutes where the machine is busy
def test_a_search_that_is_killed_twice_ends_as_one_that_is_not(
    base: Path, tmp_path: Path, codetune: Codetune
) -> None:
    source = make_repository(tmp_path / "repo", commits=8)
    command = ["tune", str(source), "--base", str(base), "--json", *TINY]
    home, whole = tmp_path / "home", tmp_path / "whole"

    killed_within_trial(0, command, home, signal.SIGKILL)
    seconds, errors = killed_within_trial(1, command, home, signal.SIGINT)
    assert seconds < AT_ONCE
    assert "run the same command again" in errors
    finished = codetune(*command, home=home)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)

    assert set(result["search"]) >= {"trials", "best", "pruned", "seconds"}
    best = result["search"]["best"]
    assert set(best) == {"trial", "params", "validation_loss"}
    assert result["training"]["validation"]["saved"] == best["validation_loss"]
    assert result["scorecard"]["tuned"]["bits_per_byte"]["value"] > 0
    card = json.loads(codetune("show", result["model"], "--json", home=home).stdout)
    assert card["search"]["trials"] == len(card["search"]["all"]) == 3
    states = [one["state"] for one in card["search"]["all"]]
    assert states == ["finished", "pruned", "finished"]  # trial 1: a smaller rate, a smaller rank
    assert card["search"]["all"][0]["params"]["training.learning_rate"] == 0.01
    folder = Path(result["report"]).parent
    assert (folder / "search.png").read_bytes()[:4] == b"\x89PNG"
    assert "data:image/png;base64," in (folder / "report.html").read_text()
    assert "![Search](search.png)" in (folder / "report.md").read_text()
    listed = codetune("models", home=home).stdout
    assert "Trials that led to" not in listed
    assert f"Trials that led to {result['model']}" in codetune("models", "--all", home=home).stdout

    assert codetune(*command, home=whole).returncode == 0
    assert trials_of(home) == trials_of(whole)
