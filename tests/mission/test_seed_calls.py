"""The documented calls, as a script against a real server with its worker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.serving.tiny_models import make_base

SCRIPT = Path(__file__).parents[2] / "examples" / "seed_calls.sh"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A fresh `codetune serve` with a small random base: its address, and the base's folder."""
    base = make_base(tmp_path / "tiny")
    environment = {**os.environ, "CODETUNE_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "codetune", "serve", "--port", "0", "--base", str(base)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert found is not None
        yield found[0], base
        process.send_signal(signal.SIGINT)
        process.stdout.read()


def test_every_documented_call_succeeds(
    served: tuple[str, Path], shop: Path, tmp_path: Path
) -> None:
    url, base = served
    options = {
        "base": str(base),
        "training": {"max_steps": 2, "batch_tokens": 1024},
        "dataset": {"window": 512, "replay_share": 0},
        "evaluation": {"text_bytes": 2048, "fim_prompts": 2, "general_bytes": 2048},
    }
    environment = {**os.environ, "TUNE": "1", "CONFIG": json.dumps({"config": options})}
    done = subprocess.run(
        [str(SCRIPT), str(shop), url],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert '"generated_text"' in done.stdout
    assert '"trained":true' in done.stdout and '"response"' in done.stdout
    assert done.stdout.count('"answer"') == 2
    assert '"done":true' in done.stdout and "There is no model 'no-such-model'" in done.stdout
