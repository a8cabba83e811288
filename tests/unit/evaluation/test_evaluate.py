"""The whole station on tiny real models."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact, run_stage
from codetune.errors import EvaluationError, ModelError
from codetune.evaluation import forgetting
from codetune.evaluation.completion import prepare
from codetune.evaluation.config import EvaluationOptions
from codetune.evaluation.evaluate import _Bench, evaluate
from codetune.evaluation.likelihood import Passage, cut_windows
from codetune.evaluation.samples import Gap
from codetune.models.load import BaseModel, parent_of, resolve_base
from codetune.models.prompts import Renderer
from codetune.progress import Progress, Quiet, Task


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


def test_an_adapter_on_an_adapter_is_compared_with_the_lower_one(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    plain = evaluate(dataset, base, run, OPTIONS, tmp_path, Progress())
    parent = parent_of("team:1", run / "model", base)
    card = evaluate(dataset, replace(base, parent=parent), run, OPTIONS, tmp_path, Progress())
    alone, stacked = plain.summary["scorecard"], card.summary["scorecard"]
    assert (alone["reference"], stacked["reference"]) == ("", "team:1")
    # The run's own adapter serves as the parent: both sides are the same model then.
    assert stacked["base"] == stacked["tuned"] == alone["tuned"] != alone["base"]
    assert not stacked["promoted"]


def labels(sink: list[str]) -> Progress:
    """Progress that notes which bars were shown: which model was really asked."""

    class Noting(Quiet):
        def start(self, task: Task) -> None:
            sink.append(task.label)

    return Progress(Noting())


def test_scores_are_given_once(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    seen: list[str] = []
    first = evaluate(dataset, base, run, OPTIONS, tmp_path, labels(seen))
    assert seen == ["score base", "complete with base", "score tuned", "complete with tuned"]
    seen.clear()
    assert evaluate(dataset, base, run, OPTIONS, tmp_path, labels(seen)) == first
    stricter = OPTIONS.model_copy(update={"forgetting_limit": 0.0, "bootstrap": 300})
    assert evaluate(dataset, base, run, stricter, tmp_path, labels(seen)).digest != first.digest
    assert seen == []  # another verdict on the same answers asks no model
    other = replace(run, digest="another run")
    evaluate(dataset, base, other, OPTIONS, tmp_path, labels(seen))
    assert seen == ["score tuned", "complete with tuned"]  # the base's answers are shared
    seen.clear()
    fewer = OPTIONS.model_copy(update={"fim_prompts": 3})
    evaluate(dataset, base, run, fewer, tmp_path, labels(seen))
    assert len(seen) == 4


def test_scores_of_another_kind_make_another_scorecard(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path, monkeypatch: Any
) -> None:
    module = "codetune.evaluation.evaluate"
    seen: list[str] = []
    few = OPTIONS.model_copy(update={"fim_prompts": 0, "bootstrap": 100})
    digests = {evaluate(dataset, base, run, few, tmp_path, labels(seen)).digest}
    monkeypatch.setattr(f"{module}._VERSION", 99)
    digests.add(evaluate(dataset, base, run, few, tmp_path, labels(seen)).digest)
    monkeypatch.setattr(f"{module}.device_and_dtype", lambda: ("cpu", "float8"))
    digests.add(evaluate(dataset, base, run, few, tmp_path, labels(seen)).digest)
    assert len(digests) == 3
    assert seen.count("score base") == seen.count("score tuned") == 3


def test_a_model_that_equals_its_base_stays_a_candidate(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    """A full run whose weights are the base's own: no difference, no promotion."""

    def make(folder: Path) -> dict[str, str]:
        shutil.copytree(base.path, folder / "model")
        return {"method": "full"}

    same = run_stage("run", tmp_path / "runs", {}, {}, make)
    card = evaluate(dataset, base, same, OPTIONS, tmp_path / "e", Progress()).summary["scorecard"]
    assert card["base"] == card["tuned"]
    assert card["change"]["bits_per_byte"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert card["promoted"] is False
    assert "Not proved better" in card["reasons"][0]


def test_a_base_without_fim_tokens_is_scored_on_text_alone(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(base.path, plain)
    spec = (plain / "tokenizer.json").read_text()
    (plain / "tokenizer.json").write_text(spec.replace("<|fim_", "<|other_"))

    def make(folder: Path) -> dict[str, str]:
        shutil.copytree(plain, folder / "model")
        return {"method": "full"}

    run = run_stage("run", tmp_path / "runs", {}, {}, make)
    found = evaluate(
        dataset, resolve_base(str(plain)), run, OPTIONS, tmp_path / "e", Progress()
    ).summary["scorecard"]
    for side in ("base", "tuned"):
        assert found[side]["fim_exact_match"] is None
        assert found[side]["fim_edit_similarity"] is None
        assert found[side]["bits_per_byte"]["value"] > 0
        assert found[side]["n"]["prompts"] == 0


def test_a_window_that_no_config_states_is_the_options(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(base.path, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    del config["max_position_embeddings"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    silent = resolve_base(str(tmp_path / "base"))
    told = OPTIONS.model_copy(update={"window": 128})
    assert _Bench(dataset, silent, run, told, Progress()).exam.window == 128
    with pytest.raises(EvaluationError, match=r"evaluation\.window"):
        _ = _Bench(dataset, silent, run, OPTIONS, Progress()).exam


def test_without_the_general_set_nothing_is_promoted(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    options = OPTIONS.model_copy(update={"general_bytes": 0, "fim_prompts": 0})
    card = evaluate(dataset, base, run, options, tmp_path, Progress()).summary["scorecard"]
    assert card["base"]["general_bits_per_byte"] is None
    assert card["promoted"] is False


def test_an_adapter_of_another_base_is_refused(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="trained on another base"):
        evaluate(dataset, replace(base, digest="0" * 64), run, OPTIONS, tmp_path, Progress())


def test_a_damaged_general_set_is_named(
    dataset: Artifact, base: BaseModel, run: Artifact, tmp_path: Path
) -> None:
    forgetting.GENERAL.write_bytes(b"not gzip")
    with pytest.raises(EvaluationError, match="general set that comes with codetune"):
        evaluate(dataset, base, run, OPTIONS, tmp_path / "e", Progress())


def test_special_tokens_in_held_out_code_are_plain_text(
    base: BaseModel, renderer: Renderer
) -> None:
    """A repository that writes the end-of-text token must not end its own scoring."""
    gap = Gap(
        "g", "c", "r", "a.py", "python", "file", "line", "a <|endoftext|>", "b", "<|fim_pad|>"
    )
    exam = prepare(renderer, [], [], [gap], window=256, new_tokens=16)
    assert renderer.eos_id not in exam.prompts[0].tokens
    text = Passage("p", "c", "r", "a.py", "", "x <|endoftext|> y")
    [row] = cut_windows(renderer, [text], 256)
    assert renderer.eos_id not in row.tokens


def test_prompts_leave_room_for_their_answers(renderer: Renderer) -> None:
    long = "value = function(1)\n" * 200
    gap = Gap("g", "c", "r", "a.py", "python", "file", "body", long, long, long)
    exam = prepare(renderer, [], [], [gap], window=128, new_tokens=500)
    [prompt] = exam.prompts
    assert len(prompt.tokens) + prompt.limit <= 128
    assert prompt.limit == 32  # a quarter of the window at most
    assert exam.fitted[0].prefix.endswith("value = function(1)\n")
