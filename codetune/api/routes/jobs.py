"""Jobs: work in the background of every kind, followed, cancelled and tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

from codetune.api.auth import actor_of
from codetune.api.dialects.bodies import dump
from codetune.api.permissions import Access
from codetune.api.routes.shapes import Listing, Part, created, listing, refusals
from codetune.api.stream import EVENTS, EventStream
from codetune.errors import NotFoundError
from codetune.jobs.follow import Event, place_of
from codetune.jobs.work import KINDS
from codetune.registry.access import Actor
from codetune.store.jobs import Job
from codetune.workspace.orders import Order, Orders
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/jobs": "read",
    "GET /api/v1/jobs/{job_id}": "read",
    "GET /api/v1/jobs/{job_id}/progress": "read",
    "GET /api/v1/jobs/{job_id}/events": "read",
    "GET /api/v1/jobs/{job_id}/log": "read",
    "POST /api/v1/jobs/{job_id}/cancel": "write",
    "POST /api/v1/jobs/{job_id}/retry": "write",
}
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["pull", "ingest", "dataset", "evaluate", "tune", "export", "push", "ollama"]


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
    """The routes of /api/v1/jobs."""
    router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
    orders = Orders(workspace)

    @router.get("", responses=refusals())
    def list_jobs(
        request: Request,
        part: Part,
        state: Annotated[State | None, Query(description="Only these.")] = None,
        kind: Annotated[Kind | None, Query(description="Only these.")] = None,
    ) -> Listing[JobSeen]:
        """Your jobs, the newest first."""
        kinds = (kind,) if kind else tuple(KINDS)
        page = orders.list(actor_of(request), part, kinds=kinds, state=state)
        return Listing(**listing(page, orders.shown(page.items)))

    follow_routes(router, workspace, tuple(KINDS))
    return router


def follow_routes(router: APIRouter, workspace: Workspace, kinds: Collection[str]) -> None:
    """What can be done with one job of these kinds."""
    _telling(router, workspace, kinds)
    _changing(router, workspace, kinds)


def _telling(router: APIRouter, workspace: Workspace, kinds: Collection[str]) -> None:
    """How it stands, and what it says."""
    orders, jobs = Orders(workspace), workspace.jobs

    @router.get("/{job_id}", responses=refusals())
    def get_job(request: Request, job_id: str) -> JobSeen:
        """One, with its result or the reason why it has none."""
        return job_seen(orders, job_of(workspace, actor_of(request), job_id, kinds))

    @router.get("/{job_id}/progress", responses=refusals())
    def progress(request: Request, job_id: str) -> ProgressSeen:
        """How far it has come."""
        return progress_seen(job_of(workspace, actor_of(request), job_id, kinds))

    @router.get(
        "/{job_id}/log",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **refusals()},
    )
    def log(request: Request, job_id: str) -> PlainTextResponse:
        """Everything that it has printed."""
        job_of(workspace, actor_of(request), job_id, kinds)
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
        await run_in_threadpool(job_of, workspace, actor, job_id, kinds)
        readiness = request.app.state.readiness
        # Whoever follows a job asks again: the next server goes on where this one ended.
        news = jobs.watch(actor, job_id, last, ending=lambda: readiness.draining)
        return EventStream(_worded(news))


def _changing(router: APIRouter, workspace: Workspace, kinds: Collection[str]) -> None:
    """Ended, and begun again."""
    orders, jobs = Orders(workspace), workspace.jobs

    @router.post("/{job_id}/cancel", status_code=202, responses=refusals(409))
    def cancel(request: Request, job_id: str) -> JobSeen:
        """Cancel it: at once if it waits, within seconds if it runs."""
        job_of(workspace, actor_of(request), job_id, kinds)
        return job_seen(orders, jobs.cancel(actor_of(request), job_id))

    @router.post("/{job_id}/retry", status_code=202, responses=refusals(409, 429))
    def retry(request: Request, job_id: str) -> JobSeen:
        """Queue it again, after it failed or was cancelled; it goes on where it stopped."""
        job_of(workspace, actor_of(request), job_id, kinds)
        return job_seen(orders, jobs.retry(actor_of(request), job_id))


def job_of(workspace: Workspace, actor: Actor, job_id: str, kinds: Collection[str]) -> Job:
    """A job of one of these kinds.

    Raises:
        NotFoundError: there is none of the actor's, or it is of another kind.
    """
    job = workspace.jobs.get(actor, job_id)
    if job.kind not in kinds:
        raise NotFoundError(f"There is no job '{job_id}'.")
    return job


def job_seen(orders: Orders, job: Job) -> JobSeen:
    """A job as clients see it."""
    return JobSeen(**orders.shown([job])[0])


def queued(
    workspace: Workspace, request: Request, key: str | None, body: BaseModel, order: Order
) -> Response:
    """Queue a job, once for each Idempotency-Key; the answer is the job as it stands."""
    orders = Orders(workspace)
    return created(
        workspace,
        request,
        key,
        body.model_dump(),
        lambda: job_seen(orders, orders.submit(actor_of(request), order)),
        status=202,
    )


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
