"""The whole station on tiny real models."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from codetune.artifacts import Artifact
from codetune.evaluation import forgetting
from codetune.evaluation.config import EvaluationOptions
from codetune.evaluation.evaluate import evaluate
from codetune.models.load import BaseModel
from codetune.progress import Progress


@pytest.fixture(autouse=True)
def general_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {
            "repo": "pip",
            "path": f"m{n}.py",
            "language": "python",
            "text": f"def f{n}():\n    pass\n",
        }
        for n in range(5)
    ]
    file = tmp_path / "evaluation.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    monkeypatch.setattr(forgetting, "GENERAL", file)


OPTIONS = EvaluationOptions(fim_new_tokens=12, bootstrap=200)


def test_evaluates_both_sides(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    result = evaluate(dataset, base, run, OPTIONS, tmp_path / "e", Progress())
    card = json.loads((result / "scorecard.json").read_text())
    assert card == json.loads(json.dumps(result.summary["scorecard"]))
    for side in ("base", "tuned"):
        assert card[side]["n"]["prompts"] == 12
        assert card[side]["n"]["files"] == 6
        assert card[side]["n"]["general_files"] == 5
        for measure in ("bits_per_byte", "fim_edit_similarity", "general_bits_per_byte"):
            figures = card[side][measure]
            assert figures["low"] <= figures["value"] <= figures["high"]
    assert card["base"]["bits_per_byte"] != card["tuned"]["bits_per_byte"]
    lines = (result / "completions.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert {"prefix", "suffix", "truth", "base", "tuned", "kind"} <= json.loads(lines[0]).keys()
