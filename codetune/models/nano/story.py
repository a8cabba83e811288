"""How nano is made, start to end: packages → documents → tokenizer → training → model folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.errors import TrainingError
from codetune.models.nano import card, general, mixture, packages
from codetune.models.nano.documents import standard_library, write_documents
from codetune.models.nano.recipe import Recipe
from codetune.progress import Progress

if TYPE_CHECKING:
    from codetune.models.nano.train import Budget, Workplace

FIM_CASES = 60
# A step has two to four rows; more processes than rows would only wait.
MOST_WORKERS = 4


@dataclass(frozen=True)
class Folders:
    """Where a making of nano keeps its parts, all below one home."""

    home: Path

    @property
    def packages(self) -> Path:
        return self.home / "packages"

    @property
    def documents(self) -> Path:
        return self.home / "documents"

    @property
    def tokenizer(self) -> Path:
        return self.home / "tokenizer"

    @property
    def general(self) -> Path:
        return self.home / "general"

    def workplace(self, run: str = "main") -> Workplace:
        from codetune.models.nano.train import Workplace

        return Workplace(
            home=self.home,
            documents=self.documents / "documents.parquet",
            held_out=self.documents / "held_out.parquet",
            tokenizer=self.tokenizer / "tokenizer.json",
            run=self.home / run,
        )


def default_packages() -> Path:
    """The package list that ships with codetune."""
    return Path(str(resources.files("codetune.models.nano") / "data.txt"))


def prepare(
    recipe: Recipe, folders: Folders, package_list: Path, progress: Progress
) -> list[packages.Package]:
    """Everything before training; finished parts are kept."""
    pins = packages.read_pins(package_list.read_text())
    progress.say(f"{len(pins)} packages → {folders.packages}")
    packages.install(pins, folders.packages)
    admitted = [*packages.admitted(pins, folders.packages), standard_library()]
    held_out = {pin.name for pin in pins if pin.held_out}

    if not (folders.documents / "documents.json").exists():
        tally = write_documents(admitted, held_out, folders.documents)
        progress.say(f"{sum(tally.kept_bytes.values()) / 1e6:.0f} MB of clean text")

    if not (folders.tokenizer / "tokenizer_config.json").exists():
        progress.say("training the tokenizer")
        make_tokenizer(recipe, folders)

    if not (folders.general / "NOTICE").exists():
        parquet = folders.documents
        general.write_general(
            parquet / "documents.parquet",
            parquet / "held_out.parquet",
            admitted,
            folders.general,
            recipe.data.seed,
        )
    return admitted


def make_tokenizer(recipe: Recipe, folders: Folders) -> None:
    """Train the tokenizer on the beginning of a mixed reading order."""
    import pyarrow.parquet as pq

    from codetune.models.nano.tokenizer import save_tokenizer, train_tokenizer

    documents = folders.documents / "documents.parquet"
    order = mixture.reading_order(documents, recipe.data.tokenizer_bytes, recipe.data.seed)
    texts = pq.read_table(documents, columns=["text"])["text"]
    trained = train_tokenizer(
        (texts[row].as_py()[:60_000] for row in order), recipe.model.vocabulary
    )
    save_tokenizer(trained, folders.tokenizer, max_length=recipe.model.positions)


def train(
    recipe: Recipe,
    folders: Folders,
    budget: Budget,
    progress: Progress,
    device: str = "cpu",
    *,
    longer: bool = False,
) -> bool:
    """Train, or go on with the run that is there; whether the whole budget is used up.

    `longer` goes on after a run that is finished.
    """
    import torch

    from codetune.models.nano.train import Run

    if not (folders.tokenizer / "tokenizer.json").exists():
        raise TrainingError("There is no tokenizer yet.", advice="Run `codetune nano train`.")
    workers = 1 if device != "cpu" else min(os.cpu_count() or 1, MOST_WORKERS)
    torch.set_num_threads(1)  # the workers have the cores; see workers.py
    run = Run(recipe, folders.workplace(), device, workers=workers)
    try:
        if longer and run.finished:
            run.go_on()
        run.train(budget, progress)
    finally:
        run.engine.close()
    return run.finished


def finish(
    folders: Folders, admitted: list[packages.Package], held_out: set[str], out: Path, device: str
) -> dict[str, Any]:
    """Publish the last checkpoint into `out`, measure it, and write its card."""
    from codetune.models.nano.measure import measure
    from codetune.models.nano.publish import publish

    place = folders.workplace()
    recipe = publish(place.checkpoint, folders.tokenizer, out)
    counts = json.loads((folders.documents / "documents.json").read_text())
    measured = measure(
        out,
        folders.general / general.EVALUATION_FILE,
        context=recipe.train.window,
        fim_cases=FIM_CASES,
    )
    run = run_record(recipe, place.run, out, device)
    card.write_card(out, card.data_list(admitted, held_out, counts), run, measured)
    return measured


def run_record(recipe: Recipe, run: Path, out: Path, device: str) -> dict[str, Any]:
    """What the card says about the run, from its metrics."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [(e["tokens"], e["bits_per_byte"]) for e in entries if "bits_per_byte" in e]
    last = entries[-1]
    changed = [(e["tokens"], e["changed"]) for e in entries if "changed" in e]
    continued = [e["continued"] for e in entries if "continued" in e]
    from safetensors import safe_open

    with safe_open(out / "model.safetensors", "pt") as weights:
        parameters = 0
        for name in weights.keys():  # noqa: SIM118 - not a dict
            count = 1
            for size in weights.get_slice(name).get_shape():
                count *= size
            parameters += count
    data = recipe.data
    return {
        "parameters": parameters,
        "vocabulary": recipe.model.vocabulary,
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "device": device,
        "fim_rate": data.fim_rate,
        "spm_rate": data.spm_rate,
        "windows": ", ".join(str(w) for w in sorted({e["window"] for e in entries})),
        "curve": curve,
        "changed": changed,
        "continued": continued,
        "shares": mixture.SHARES,
        "text_share": min(1.0, last["tokens"] * 3.5 / data.total_bytes),
        "recipe": recipe.model_dump(mode="json"),
    }
