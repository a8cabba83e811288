"""What somebody wants a job to do, made of their sources, their datasets and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from codetune.errors import BadRequestError
from codetune.jobs.limits import label_of
from codetune.jobs.service import public
from codetune.project import ProjectConfig
from codetune.registry.access import Actor, readable
from codetune.store.jobs import Job
from codetune.workspace.datasets import Datasets
from codetune.workspace.pages import Page, Window, page_of
from codetune.workspace.sources import Sources
from codetune.workspace.workspace import Workspace


@dataclass(frozen=True)
class Mixed:
    """A dataset beside the source: its share of all tokens, or its weight against the source's."""

    dataset_id: str
    share: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Order:
    """A job to be made: `source_id` or `source`; `config` as codetune.yaml has it."""

    kind: str
    source_id: str | None = None
    source: str | None = None
    name: str | None = None
    base: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    datasets: Sequence[Mixed] = ()
    priority: int = 0


class Orders:
    """Puts orders into the queue."""

    def __init__(self, workspace: Workspace) -> None:
        self._work = workspace
        self._sources, self._datasets = Sources(workspace), Datasets(workspace)

    def submit(self, actor: Actor, order: Order, *, earlier: Job | None = None) -> Job:
        """Queue a job; one that names no source reads what `earlier` has read.

        Raises:
            BadRequestError: no source is named, or two are.
            ConfigError: an option does not exist or has a value that cannot be used.
            NotFoundError: a source, dataset or base is not the actor's.
            UnsafeSourceError, QuotaError, ConflictError: as `Jobs.submit`.
        """
        again = earlier is not None and order.source_id is None and order.source is None
        if not again and (order.source_id is None) == (order.source is None):
            raise BadRequestError(
                "Say either 'source_id' or 'source': what the job reads.", param="source_id"
            )
        place, name, granted = order.source or "", order.name, list[str]()
        if earlier is not None:
            granted += self._sent(earlier)
            place = place or str(earlier.parameters["source"])
        if order.source_id is not None:
            row = self._sources.get(actor, order.source_id)
            place = self._sources.place(row)
            granted.append(place)
            name = name or order.config.get("name") or label_of(row.name)
        values = {**order.config}
        given = {"name": name, "base": order.base}
        values |= {key: value for key, value in given.items() if value is not None}
        mixed = [self._mixed(actor, one) for one in order.datasets]
        if mixed:
            granted += [one["path"] for one in mixed]
            section = values.get("dataset")
            own = section if isinstance(section, Mapping) else {}
            values["dataset"] = {**own, "mix": [*(own.get("mix") or ()), *mixed]}
        config = ProjectConfig.load(values, "config")
        return self._work.jobs.submit(
            actor, order.kind, place, config, priority=order.priority, granted=granted
        )

    def list(
        self,
        actor: Actor,
        window: Window,
        *,
        kinds: Sequence[str],
        state: str | None = None,
    ) -> Page[Job]:
        """The jobs of some kinds that the actor may see, the newest first."""
        found = select(Job).where(readable(actor, Job), Job.kind.in_(kinds))
        if state is not None:
            found = found.where(Job.state == state)
        with self._work.database.session() as session:
            return page_of(session, found, window, Job.created.desc(), Job.id.desc())

    def latest(self, actor: Actor, model: str, state: str | None = None) -> Job | None:
        """The actor's own last tuning of a model of that name."""
        named = Job.parameters["config"]["name"].as_string() == model
        found = select(Job).where(Job.owner_id == actor.id, Job.kind == "tune", named)
        if state is not None:
            found = found.where(Job.state == state)
        with self._work.database.session() as session:
            return session.scalar(found.order_by(Job.created.desc(), Job.id.desc()).limit(1))

    def shown(self, jobs: Sequence[Job]) -> Sequence[dict[str, Any]]:
        """Jobs as clients see them: folders of this server's home by what they hold."""
        owners = self._work.jobs.owners(jobs)
        return [_hidden(public(job, owners.get(job.owner_id)), self._work.home) for job in jobs]

    def _sent(self, job: Job) -> Sequence[str]:
        """What a job read of that which was sent: its owner's, as it was checked then."""
        mixed = job.parameters.get("config", {}).get("dataset", {}).get("mix") or ()
        paths = [str(job.parameters["source"]), *(str(one["path"]) for one in mixed)]
        home = self._work.home.resolve()
        kept = (home / "uploads", home / "datasets")
        return [path for path in paths if any(Path(path).is_relative_to(root) for root in kept)]

    def _mixed(self, actor: Actor, one: Mixed) -> dict[str, Any]:
        row = self._datasets.get(actor, one.dataset_id)
        share: dict[str, float] = {}
        if one.share is not None:
            share["share"] = one.share
        if one.weight is not None or one.share is None:
            share["weight"] = 1.0 if one.weight is None else one.weight
        return {
            "name": row.id,
            "path": self._datasets.place(row),
            **row.details["reading"],
            **share,
        }


def _hidden(value: Any, home: Path) -> Any:
    """The same without the path of the server's home."""
    if isinstance(value, dict):
        return {key: _hidden(one, home) for key, one in value.items()}
    if isinstance(value, list):
        return [_hidden(one, home) for one in value]
    if isinstance(value, str):
        for root in {str(home), str(home.resolve())}:
            value = value.replace(f"{root}/", "")
    return value
