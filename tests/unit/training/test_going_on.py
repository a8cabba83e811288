"""A registered adapter is a base to go on from, and what comes of it is served like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codetune.artifacts import Artifact, home, run_stage
from codetune.cli.main import cli
from codetune.models.load import BaseModel
from codetune.progress import Progress
from codetune.records import ModelCard, Repository
from codetune.registry.cards import Registry
from codetune.serving.catalog import Catalog
from codetune.serving.engines.lora import is_stackable
from codetune.training.config import TrainingOptions
from codetune.training.train import train


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))


def register(
    name: str, dataset: Artifact, base: BaseModel, folder: Path, **options: Any
) -> ModelCard:
    """A run's model in the registry, with a verdict of its own."""

    def verdict(partial: Path) -> dict[str, str]:
        (partial / "scorecard.json").write_text(json.dumps({"promoted": True}))
        return {}

    chosen = TrainingOptions(batch_tokens=512, max_steps=2, learning_rate=1e-2, **options)
    run = train(dataset, base, chosen, folder / "runs", Progress())
    scored = run_stage("evaluate", folder / "scores", {}, {"run": run.digest}, verdict)
    return Registry(home()).register(
        name,
        run=run,
        evaluation=scored,
        dataset=dataset,
        cleaned=dataset,
        repository=Repository("here", "here", "folder"),
        base=base,
    )


def test_personal_adapter_on_the_teams(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    team = register("team", dataset, base, tmp_path, rank=8)
    found = Registry(home()).base("team")
    assert found.digest == base.digest and found.parent is not None
    assert found.parent.id == "team:1" == team.id
    card = register("mine", dataset, found, tmp_path, rank=2)
    assert team.shares_batches and card.shares_batches
    assert card.parents == ("team:1", base.name)
    assert (card.kind, card.base, card.base_digest) == ("adapter", base.name, base.digest)
    served = Catalog(Registry(home()), "nano").resolve("mine")
    assert served.base.digest == base.digest
    assert is_stackable(served.folder)
    assert json.loads((served.folder / "adapter_config.json").read_text())["r"] == 10


def test_whole_model_is_a_base(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    register("whole", dataset, base, tmp_path, method="full")
    found = Registry(home()).base("whole:1")
    assert found.parent is None and found.digest != base.digest


def test_dora_is_served_alone(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    card = register("lengths", dataset, base, tmp_path, method="dora")
    assert card.method == "dora" and not card.shares_batches
    assert Registry(home()).get("lengths") == card
    shown = CliRunner().invoke(cli, ["show", "lengths"])
    assert "share no batch" in shown.output
    listed = CliRunner().invoke(cli, ["models"])
    assert "Served alone" in listed.output and "lengths:1." in listed.output
    (entry,) = [
        model
        for model in json.loads(CliRunner().invoke(cli, ["models", "--json"]).output)["models"]
        if model["id"] == "lengths:1"
    ]
    assert entry["shares_batches"] is False
    assert not is_stackable(Catalog(Registry(home()), "nano").resolve("lengths").folder)


def test_other_names_are_bases(base: BaseModel) -> None:
    assert Registry(home()).base(str(base.path)).digest == base.digest
    assert Registry(home()).base("nano").name == "nano"
