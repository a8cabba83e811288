"""What a job does: the pipeline up to the stage that its kind stands for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import MANIFEST
from codetune.errors import ConfigError, nearest

if TYPE_CHECKING:
    from codetune.jobs.reports import Reporter
    from codetune.project import ProjectConfig

# What brings a registered model out; `source` is its id.
DELIVERIES: Mapping[str, tuple[str, ...]] = {
    "export": ("export",),
    "push": ("export", "upload"),
    "ollama": ("export", "load"),
}
# What each kind of job makes, in this order. Stages that are finished are found, not made anew:
# whatever ended the attempt before, the next one goes on at the interrupted stage and step.
KINDS: Mapping[str, tuple[str, ...]] = {
    "pull": ("fetch",),
    "ingest": ("collect", "clean"),
    "dataset": ("collect", "clean", "build"),
    "evaluate": ("collect", "clean", "build", "train", "evaluate"),
    "tune": ("collect", "clean", "build", "train", "evaluate", "register"),
    **DELIVERIES,
}


@dataclass(frozen=True)
class Work:
    """What is to be done, as it stands in the job's row: everything that a child needs."""

    kind: str
    source: str  # an address or a path; of a "pull" the base's name, of a delivery the model's id
    config: Mapping[str, Any]  # of ProjectConfig, only what differs; of a delivery its own
    folder: str | None = None  # relative paths of the options begin here
    collected: str | None = None  # the source as an earlier attempt has seen it
    token: str | None = field(default=None, repr=False)  # of a hub; given by the worker, never kept
    foreign_base: bool = False  # the base is no model of the registry; said by the worker
    # Hosts inside the network that may be read, None: any; said by the worker.
    sites: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"There is no kind of job '{self.kind}'.", advice=nearest(self.kind, KINDS)
            )


def do(work: Work, reporter: Reporter) -> dict[str, Any]:
    """Do `work` in this process; returns its result as JSON.

    Raises:
        CodetuneError: what the user can mend. Anything else is a crash.
    """
    if work.kind == "pull":
        return _pull(work.source, reporter)
    if work.kind in DELIVERIES:
        from codetune.jobs.deliver import deliver

        return deliver(work, reporter)
    from codetune.pipeline import Journey, tuned
    from codetune.project import ProjectConfig

    if work.folder is not None and Path(work.folder).is_dir():
        os.chdir(work.folder)
    config = ProjectConfig.load(work.config, "the job's options")
    kept = _kept(work.collected)
    journey = Journey(
        work.source,
        config,
        reporter.progress,
        kept,
        foreign_base=work.foreign_base,
        sites=work.sites,
    )
    way, stages = journey, _stages(work.kind, config)
    for number, stage in enumerate(stages):
        reporter.stage(stage, number, len(stages))
        if stage == "search":
            way = journey.best()
            continue
        made = getattr(way, stage)()
        if stage == "collect":
            # Commits that arrive between two attempts must not make them see two sources.
            reporter.collected(made.path)
    reporter.stages_done(len(stages))
    if work.kind == "tune":
        return tuned(journey).as_json()
    result = {"artifact": str(made.path), "summary": dict(made.summary)}
    if work.kind == "evaluate":
        result["scorecard"] = json.loads((made / "scorecard.json").read_text())
    return result


def _pull(name: str, reporter: Reporter) -> dict[str, Any]:
    """Bring a base here, checked as every base is, so that nobody waits for it later."""
    from codetune.models.load import resolve_base

    (stage,) = KINDS["pull"]
    reporter.stage(stage, 0, 1)
    base = resolve_base(name)
    reporter.stages_done(1)
    facts = {"base": name, "digest": base.digest, "architecture": base.architecture}
    return {**facts, "artifact": str(base.path)}


def _stages(kind: str, config: ProjectConfig) -> tuple[str, ...]:
    stages = KINDS[kind]
    if kind == "tune" and config.search.trials:
        return (*stages[:2], "search", *stages[2:])
    return stages


def _kept(collected: str | None) -> Path | None:
    """What an earlier attempt has collected, unless someone has deleted it since."""
    path = Path(collected) if collected else None
    return path if path and (path / MANIFEST).exists() else None
