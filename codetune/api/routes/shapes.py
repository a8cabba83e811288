"""What the management routes share: pages, keys, and the statuses that they declare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from codetune.api.auth import actor_of
from codetune.workspace.idempotency import digest_of_request, once
from codetune.workspace.pages import Page, Window
from codetune.workspace.workspace import Workspace

T = TypeVar("T")
MOST_OFFSET = 1_000_000_000


class ErrorDetail(BaseModel):
    """What went wrong, for people and for programs."""

    message: str
    type: str
    param: str | None = Field(None, description="The field to change.")
    code: str | int | None = None


class Error(BaseModel):
    """Every refusal of the management surface."""

    error: ErrorDetail


_REASONS = {
    400: "The request cannot be answered as it was asked.",
    401: "Nobody is known by these credentials.",
    403: "This host name, web page, role or token may not do this.",
    404: "There is no such thing, or it is not yours.",
    405: "The path does not take this method.",
    409: "It is there already, or something else needs it, or its state does not allow this.",
    413: "The body is too long.",
    422: "A field, an option, a source or a row of a file cannot be used.",
    429: "Too many tries, or as many waiting jobs as one user may have; see Retry-After.",
    500: "The server failed; its log says why, under the request's id.",
    503: "The server is shutting down, or its database does not answer.",
    504: "The answer was not ready in time.",
}
_ALWAYS = (400, 401, 403, 404, 413, 422, 503)


def refusals(*more: int) -> dict[int | str, dict[str, Any]]:
    """A route's declared refusals: the ones that any route may have, and `more`."""
    return {
        status: {"model": Error, "description": _REASONS[status]} for status in (*_ALWAYS, *more)
    }


def _window(
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 50,
    offset: Annotated[int, Query(ge=0, le=MOST_OFFSET, description="Leave out the first.")] = 0,
) -> Window:
    return Window(limit, offset)


Part = Annotated[Window, Depends(_window)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=128,
        description="The same key with the same request gets the first answer again, for a day.",
    ),
]


class Listing(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T]
    total: int = Field(description="How many there are in all.")
    limit: int
    offset: int


def listing(page: Page[Any], items: Sequence[Any]) -> dict[str, Any]:
    """A page with its items as clients see them."""
    window = page.window
    return {
        "items": items,
        "total": page.total,
        "limit": window.limit,
        "offset": window.offset,
    }


def created(
    workspace: Workspace,
    request: Request,
    key: str | None,
    body: Any,
    make: Callable[[], BaseModel],
    *,
    status: int = 201,
) -> Response:
    """Make something, once for each Idempotency-Key; the answer says where it is.

    `body` is what tells two requests under one key apart.
    """
    digest = digest_of_request(request.method, request.url.path, body)
    answer, repeated = once(
        workspace.database,
        actor_of(request),
        key,
        digest,
        status,
        lambda: make().model_dump(mode="json"),
    )
    headers = {"Idempotency-Replayed": "true"} if repeated else {}
    return JSONResponse(answer, status, headers)
