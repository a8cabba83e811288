"""What somebody has on a server and what came of their completions, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, true
from sqlalchemy.orm import Session

from codetune.registry.access import Actor, may, readable
from codetune.serving.fates import STAYED
from codetune.store.base import now
from codetune.store.completions import Completion, CompletionEvent
from codetune.store.datasets import Dataset
from codetune.store.jobs import STATES, Job
from codetune.store.sources import Source
from codetune.store.usage import Usage
from codetune.store.users import User
from codetune.workspace.pages import Window
from codetune.workspace.user_models import UserModels
from codetune.workspace.workspace import Workspace


@dataclass(frozen=True)
class Quality:
    """A model's completions whose fate an editor has reported."""

    model: str
    completions: int = 0
    shown: int = 0
    accepted: int = 0
    dismissed: int = 0
    looked_at: int = 0  # accepted ones that were seen again later
    prompt_tokens: int = 0
    tokens: int = 0
    edit_ratio: float | None = (
        None  # share of those that their readers had changed by then, the mean
    )

    @property
    def accept_rate(self) -> float | None:
        """Accepted of those that were shown; None where none was."""
        return self.accepted / self.shown if self.shown else None

    @property
    def dismiss_rate(self) -> float | None:
        """Dismissed of those that were shown; None where none was."""
        return self.dismissed / self.shown if self.shown else None


@dataclass(frozen=True)
class Used:
    """What a user asked of a model, in any dialect; times are means in seconds."""

    user_id: str
    user: str
    model: str
    requests: int
    cancelled: int  # of them, by the client
    prompt_tokens: int
    tokens: int
    seconds: float | None
    first_token_seconds: float | None
    day: date | None = None  # UTC; None: all days that were asked for


@dataclass(frozen=True)
class Numbers:
    """Everything at once."""

    sources: int
    datasets: int
    models: int
    versions: int
    jobs: Mapping[str, int]  # by state
    quality: Sequence[Quality]
    usage: Sequence[Used]


_KINDS = ("view", "select", "dismiss", STAYED)
_COUNTED = (
    *("completions", "shown", "accepted", "dismissed", "looked_at"),
    *("prompt_tokens", "tokens"),
)


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
                quality=quality(session, actor, days),
                usage=usage(session, actor, days),
            )


def _count(session: Session, actor: Actor, table: type[Source] | type[Dataset]) -> int:
    found = select(func.count()).select_from(table).where(readable(actor, table))
    return session.scalar(found) or 0


def usage(session: Session, actor: Actor, days: int, *, by_day: bool = False) -> Sequence[Used]:
    """Who asked how much of which model in the last `days` days, today (UTC) included.

    One's own, or for who manages the server, everybody's. What was asked in the last two
    seconds may be missing.
    """
    mine: ColumnElement[bool] = true() if may(actor, "manage") else Usage.owner_id == actor.id
    first = now().date() - timedelta(days=days - 1)
    keys: list[Any] = [User.name, Usage.owner_id, Usage.model, *([Usage.day] if by_day else [])]
    summed = ("requests", "cancelled", "prompt_tokens", "completion_tokens", "answered")
    found = (
        select(
            *keys,
            *(func.sum(getattr(Usage, name)).label(f"sum_{name}") for name in summed),
            func.sum(Usage.seconds).label("all_seconds"),
            func.sum(Usage.first_seconds).label("all_first"),
        )
        .join(User, User.id == Usage.owner_id)
        .where(mine, Usage.day >= first)
        .group_by(*keys)
        .order_by(*keys)
    )
    return [_used(row) for row in session.execute(found).mappings()]


def _used(row: Any) -> Used:
    requests, answered = int(row["sum_requests"]), int(row["sum_answered"])
    return Used(
        user_id=row["owner_id"],
        user=row["name"],
        model=row["model"],
        requests=requests,
        cancelled=int(row["sum_cancelled"]),
        prompt_tokens=int(row["sum_prompt_tokens"]),
        tokens=int(row["sum_completion_tokens"]),
        seconds=row["all_seconds"] / requests if requests else None,
        first_token_seconds=row["all_first"] / answered if answered else None,
        day=row.get("day"),
    )


def quality(
    session: Session, actor: Actor, days: int, models: Sequence[str] | None = None
) -> Sequence[Quality]:
    """What became of the completions of the last `days` days, by model; of `models` alone."""
    mine: ColumnElement[bool] = true() if may(actor, "manage") else Completion.owner_id == actor.id
    recent = Completion.at >= now() - timedelta(days=days)
    # A completion is shown, accepted or dismissed once, however often an editor says so.
    events = (
        select(
            CompletionEvent.completion_id.label("id"),
            *(_ever(kind).label(kind) for kind in _KINDS),
            func.max(CompletionEvent.details["edit_ratio"].as_float()).label("edit_ratio"),
        )
        .group_by(CompletionEvent.completion_id)
        .subquery()
    )
    found = (
        select(
            Completion.model,
            func.count(),
            *(_sum(events.c[kind]) for kind in _KINDS),
            _sum(Completion.details["prompt_tokens"].as_integer()),
            _sum(Completion.details["tokens"].as_integer()),
            func.avg(events.c.edit_ratio),
        )
        .outerjoin(events, events.c.id == Completion.id)
        .where(mine, recent)
        .group_by(Completion.model)
        .order_by(Completion.model)
    )
    if models is not None:
        found = found.where(Completion.model.in_(models))
    return [
        Quality(
            model=row[0],
            edit_ratio=None if row[8] is None else float(row[8]),
            **dict(zip(_COUNTED, map(int, row[1:8]), strict=True)),
        )
        for row in session.execute(found)
    ]


def _ever(kind: str) -> ColumnElement[int]:
    return func.max(case((CompletionEvent.kind == kind, 1), else_=0))


def _sum(value: Any) -> ColumnElement[int]:
    return func.coalesce(func.sum(value), 0)
