"""Tunings: jobs of the whole way from a source to a model with a scorecard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response

from codetune.api.auth import actor_of
from codetune.api.dialects.bodies import dump
from codetune.api.permissions import Access
from codetune.api.routes.shapes import Key, Listing, Part, created, listing, refusals
from codetune.api.stream import EVENTS, EventStream
from codetune.errors import NotFoundError
from codetune.jobs.follow import Event, place_of
from codetune.registry.access import Actor
from codetune.store.jobs import Job
from codetune.workspace.orders import Mixed, Order, Orders
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/tuning": "read",
    "POST /api/v1/tuning": "create",
    "GET /api/v1/tuning/{job_id}": "read",
    "GET /api/v1/tuning/{job_id}/progress": "read",
    "GET /api/v1/tuning/{job_id}/events": "read",
    "GET /api/v1/tuning/{job_id}/log": "read",
    "POST /api/v1/tuning/{job_id}/cancel": "write",
    "POST /api/v1/tuning/{job_id}/retry": "write",
}
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class MixedDataset(BaseModel):
    """A dataset of yours beside the source."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=40)
    share: float | None = Field(None, gt=0, lt=1, description="Of all training tokens.")
    weight: float | None = Field(
        None, gt=0, description="Instead: its tokens in relation to the source's; 1 by default."
    )


class Wanted(BaseModel):
    """What a job reads, and with which options."""

    model_config = ConfigDict(extra="forbid")

    source_id: str | None = Field(None, max_length=40, description="A source of yours.")
    source: str | None = Field(
        None, min_length=1, max_length=4096, description="Instead: an address or a path."
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Options as codetune.yaml has them; one that does not exist is refused.",
    )
    datasets: list[MixedDataset] = Field(
        default_factory=list, max_length=32, description="Training data beside the source."
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Higher comes first; above 0 for administrators."
    )

    def order(self, kind: str, **more: Any) -> Order:
        """The same for the queue."""
        mixed = [Mixed(one.id, one.share, one.weight) for one in self.datasets]
        return Order(
            kind,
            source_id=self.source_id,
            source=self.source,
            config=self.config,
            datasets=mixed,
            priority=self.priority,
            **more,
        )


class NewTuning(Wanted):
    """A tuning to be made."""

    name: str | None = Field(
        None, min_length=1, max_length=96, description="Of the model; the source's by default."
    )
    base: str | None = Field(
        None, min_length=1, max_length=512, description="A base, or a model of yours to go on from."
    )


class JobSeen(BaseModel):
    """A job as it stands."""

    id: str
    kind: str
    state: State
    cancelling: bool = Field(description="It runs, and has been told to end.")
    source: str
    config: dict[str, Any] = Field(description="The options that were set.")
    owner: str
    priority: int
    attempts: int
    progress: dict[str, Any]
    result: dict[str, Any] | None
    error: dict[str, Any] | None = Field(description="Why it failed, and what to do.")
    created: str
    started: str | None
    finished: str | None


class ProgressSeen(BaseModel):
    """How far a job has come."""

    id: str
    state: State
    progress: dict[str, Any] = Field(
        description="Stage, number of stages, and done, total, rate and seconds left of its task."
    )
    error: dict[str, Any] | None


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/tuning."""
    router = APIRouter(prefix="/api/v1/tuning", tags=["tuning"])
    orders, jobs = Orders(workspace), workspace.jobs

    @router.get("", responses=refusals())
    def list_tunings(
        request: Request,
        part: Part,
        state: Annotated[State | None, Query(description="Only these.")] = None,
    ) -> Listing[JobSeen]:
        """Your tunings, the newest first."""
        page = orders.list(actor_of(request), part, kinds=("tune",), state=state)
        return Listing(**listing(page, orders.shown(page.items)))

    @router.post("", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def create_tuning(request: Request, body: NewTuning, key: Key = None) -> Response:
        """Queue a tuning: collect, clean, build, train, evaluate, register."""
        order = body.order("tune", name=body.name, base=body.base)
        return created(
            workspace,
            request,
            key,
            body.model_dump(),
            lambda: job_seen(orders, orders.submit(actor_of(request), order)),
            status=202,
        )

    @router.get("/{job_id}", responses=refusals())
    def get_tuning(request: Request, job_id: str) -> JobSeen:
        """One tuning, with its result or the reason why it has none."""
        return job_seen(orders, tuning_of(workspace, actor_of(request), job_id))

    @router.get("/{job_id}/progress", responses=refusals())
    def progress(request: Request, job_id: str) -> ProgressSeen:
        """How far it has come."""
        return progress_seen(tuning_of(workspace, actor_of(request), job_id))

    @router.get("/{job_id}/log", response_class=PlainTextResponse, responses=refusals())
    def log(request: Request, job_id: str) -> PlainTextResponse:
        """Everything that it has printed."""
        tuning_of(workspace, actor_of(request), job_id)
        return PlainTextResponse(jobs.log(actor_of(request), job_id))

    @router.get("/{job_id}/events", responses={200: {"content": {EVENTS: {}}}, **refusals()})
    async def events(
        request: Request,
        job_id: str,
        last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=40)] = None,
    ) -> Response:
        """What happens to it, as server-sent events; begun again where Last-Event-ID says."""
        actor = actor_of(request)
        place_of(last)  # a wrong id is refused before the stream begins
        await run_in_threadpool(tuning_of, workspace, actor, job_id)
        return EventStream(_worded(jobs.watch(actor, job_id, last)))

    @router.post("/{job_id}/cancel", status_code=202, responses=refusals(409))
    def cancel(request: Request, job_id: str) -> JobSeen:
        """Cancel it: at once if it waits, within seconds if it runs."""
        tuning_of(workspace, actor_of(request), job_id)
        return job_seen(orders, jobs.cancel(actor_of(request), job_id))

    @router.post("/{job_id}/retry", status_code=202, responses=refusals(409, 429))
    def retry(request: Request, job_id: str) -> JobSeen:
        """Queue it again, after it failed or was cancelled; it goes on where it stopped."""
        tuning_of(workspace, actor_of(request), job_id)
        return job_seen(orders, jobs.retry(actor_of(request), job_id))

    return router


def tuning_of(workspace: Workspace, actor: Actor, job_id: str) -> Job:
    """A job that is a tuning.

    Raises:
        NotFoundError: there is none of the actor's, or it is another kind of job.
    """
    job = workspace.jobs.get(actor, job_id)
    if job.kind != "tune":
        raise NotFoundError(f"There is no job '{job_id}'.")
    return job


def job_seen(orders: Orders, job: Job) -> JobSeen:
    """A job as clients see it."""
    return JobSeen(**orders.shown([job])[0])


def progress_seen(job: Job) -> ProgressSeen:
    """A job's progress as clients see it."""
    state: State = job.state  # type: ignore[assignment]  # the table's constraint
    return ProgressSeen(id=job.id, state=state, progress=job.progress, error=job.error)


async def _worded(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        if event.kind == "ping":
            yield b": still here\n\n"
            continue
        data = dump({**event.data, "at": event.at.isoformat() if event.at else None})
        yield f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()
