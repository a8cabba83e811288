"""What somebody has on a server and what came of their completions, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, true
from sqlalchemy.orm import Session

from codetune.registry.access import Actor, may, readable
from codetune.store.base import now
from codetune.store.completions import Completion, CompletionEvent
from codetune.store.datasets import Dataset
from codetune.store.jobs import STATES, Job
from codetune.store.sources import Source
from codetune.workspace.pages import Window
from codetune.workspace.user_models import UserModels
from codetune.workspace.workspace import Workspace


@dataclass(frozen=True)
class Quality:
    """A model's completions whose fate an editor has reported."""

    model: str
    completions: int
    shown: int
    accepted: int
    dismissed: int
    prompt_tokens: int
    tokens: int

    @property
    def accept_rate(self) -> float | None:
        """Accepted of those that were shown; None where none was."""
        return self.accepted / self.shown if self.shown else None


@dataclass(frozen=True)
class Numbers:
    """Everything at once."""

    sources: int
    datasets: int
    models: int
    versions: int
    jobs: Mapping[str, int]  # by state
    quality: Sequence[Quality]


class Analytics:
    """Counts for one actor: their own, or for who manages the server, everybody's."""

    def __init__(self, workspace: Workspace) -> None:
        self._work, self._models = workspace, UserModels(workspace)

    def numbers(self, actor: Actor, days: int) -> Numbers:
        """What there is now, and the completions of the last `days` days."""
        models = self._models.list(actor, Window(limit=1_000_000)).items
        with self._work.database.session() as session:
            found = select(Job.state, func.count()).where(readable(actor, Job)).group_by(Job.state)
            states = {row[0]: int(row[1]) for row in session.execute(found)}
            return Numbers(
                sources=_count(session, actor, Source),
                datasets=_count(session, actor, Dataset),
                models=len(models),
                versions=sum(len(model.versions) for model in models),
                jobs={state: states.get(state, 0) for state in STATES},
                quality=_quality(session, actor, days),
            )


def _count(session: Session, actor: Actor, table: type[Source] | type[Dataset]) -> int:
    found = select(func.count()).select_from(table).where(readable(actor, table))
    return session.scalar(found) or 0


def _quality(session: Session, actor: Actor, days: int) -> Sequence[Quality]:
    mine: ColumnElement[bool] = true() if may(actor, "manage") else Completion.owner_id == actor.id
    recent = Completion.at >= now() - timedelta(days=days)
    # A completion is shown, accepted or dismissed once, however often an editor says so.
    events = (
        select(
            CompletionEvent.completion_id.label("id"),
            *(_ever(kind).label(kind) for kind in ("view", "select", "dismiss")),
        )
        .group_by(CompletionEvent.completion_id)
        .subquery()
    )
    found = (
        select(
            Completion.model,
            func.count(),
            *(_sum(events.c[kind]) for kind in ("view", "select", "dismiss")),
            _sum(Completion.details["prompt_tokens"].as_integer()),
            _sum(Completion.details["tokens"].as_integer()),
        )
        .outerjoin(events, events.c.id == Completion.id)
        .where(mine, recent)
        .group_by(Completion.model)
        .order_by(Completion.model)
    )
    return [Quality(row[0], *map(int, row[1:])) for row in session.execute(found)]


def _ever(kind: str) -> ColumnElement[int]:
    return func.max(case((CompletionEvent.kind == kind, 1), else_=0))


def _sum(value: Any) -> ColumnElement[int]:
    return func.coalesce(func.sum(value), 0)
