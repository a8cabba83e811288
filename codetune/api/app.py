"""The HTTP application: dialects on one completer, behind one guard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from codetune import __version__
from codetune.api import monitoring
from codetune.api.auth import Gate
from codetune.api.dialects import embeddings, llamacpp, mistral, ollama, openai, tabby, vllm
from codetune.api.dialects.front import Front
from codetune.api.errors import failure_of, is_own, plain_failure, style_of
from codetune.api.guard import LOOPBACK, Guard
from codetune.api.metrics import Metrics, Traffic
from codetune.api.permissions import Access, Permissions
from codetune.api.stream import ClientGoneError
from codetune.api.watch import NOBODY_LISTENS, RequestRecord, Watch, record_of
from codetune.errors import CodetuneError
from codetune.serving.complete import Completer
from codetune.serving.log import CompletionLog, MemoryLog

if TYPE_CHECKING:
    from codetune.accounts.logins import Logins
    from codetune.serving.usage import UsageBook
    from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /openapi.json": "public",
}

_BROKEN = "json_invalid"
# What pydantic says of a body as a whole that is no JSON object, or not there.
_NO_OBJECT = "model_attributes_type"
_UNREAD = (_BROKEN, _NO_OBJECT, "missing")
# What FastAPI says of a body that is no JSON for another reason than its grammar.
_UNPARSED = "There was an error parsing the body"


def create_app(
    completer: Completer,
    *,
    hosts: Iterable[str] = LOOPBACK,
    logins: Logins | None = None,
    log: CompletionLog | None = None,
    workspace: Workspace | None = None,
    usage: UsageBook | None = None,
) -> FastAPI:
    """The application that serves `completer`; `hosts` are the names it may be called by.

    With `logins` there are accounts; from the first administrator on nobody is served without
    one. `log` keeps what editors say of completions. With a `workspace` there is the management
    surface. `usage` hears of every request that a model answered.
    """
    app = FastAPI(title="codetune", version=__version__, docs_url=None, redoc_url=None)
    tables: list[Access] = [ACCESS]
    log = log or MemoryLog()
    front = Front(completer, log)
    for router, access in _parts(front, logins, workspace):
        app.include_router(router)
        tables.append(access)
    database = logins.database if logins is not None else None
    app.state.readiness = monitoring.Readiness(completer, database)
    traffic = Traffic()
    work = partial(monitoring.work_of, database) if database is not None else None
    metrics = Metrics(completer.engine, traffic, log.fates, work)
    app.include_router(monitoring.routes(completer, app.state.readiness, metrics))
    tables.append(monitoring.ACCESS)

    def ended(record: RequestRecord) -> None:
        traffic.ended(record)
        if usage is not None:
            record.write_down(usage)

    app.add_exception_handler(CodetuneError, _failed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientGoneError, _nobody)
    app.add_exception_handler(ClientDisconnect, _nobody)  # before all of its request was here
    permissions = Permissions(tables)
    app.add_middleware(Gate, permissions=permissions, logins=logins)
    app.add_middleware(Guard, hosts=tuple(hosts))
    app.add_middleware(Watch, route_of=permissions.route, begun=traffic.begun, ended=ended)
    return app


def _parts(
    front: Front, logins: Logins | None, workspace: Workspace | None
) -> Iterator[tuple[APIRouter, Access]]:
    """The dialects, accounts and the management surface: routers with their tables."""
    for dialect in (openai, mistral, llamacpp, ollama, tabby, vllm, embeddings):
        yield dialect.routes(front), dialect.ACCESS
    if logins is not None:
        from codetune.api.routes import accounts, people

        for part in (accounts, people):
            yield part.routes(logins), part.ACCESS
    if workspace is not None:
        from codetune.api.routes import management

        yield from management.parts(workspace, front)


async def _failed(request: Request, error: Exception) -> Response:
    failure = failure_of(error, str(request.state.request_id), own=is_own(request.url.path))
    record_of(request).error = failure.code
    body = failure.body(style_of(request.url.path))
    return JSONResponse(body, failure.status, failure.headers)


async def _refused(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, and bodies that nobody could read."""
    assert isinstance(error, HTTPException)
    if error.detail == _UNPARSED:
        failure = plain_failure(400, _unparsed(error.__cause__), "invalid_value")
        record_of(request).error = failure.code
        return JSONResponse(failure.body(style_of(request.url.path)), failure.status)
    message = {
        404: f"There is no {request.method} {request.url.path}.",
        405: f"{request.url.path} does not take {request.method}.",
    }.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    failure = plain_failure(error.status_code, message, code)
    record_of(request).error = failure.code
    body = failure.body(style_of(request.url.path))
    return JSONResponse(body, error.status_code, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    """A body or a parameter that is not what the route takes; the value itself is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    unread = first["type"] in _UNREAD and (first["loc"] == ("body",) or first["type"] == _BROKEN)
    status, where = (400, "") if unread else (422, where)  # see api.errors
    is_json = "json" in request.headers.get("content-type", "")
    said = f"{where or 'The body'}: {_reason(first, is_json=is_json)}."
    failure = plain_failure(status, said, "invalid_value", where)
    return JSONResponse(failure.body(style_of(request.url.path)), failure.status)


def _reason(wrong: dict[str, Any], *, is_json: bool) -> str:
    """What is wrong with a field or a body, without the names of classes."""
    message = str(wrong["msg"]).removeprefix("Value error, ")
    if wrong["type"] == _BROKEN:
        return f"This is not JSON: {wrong['ctx']['error']} (character {wrong['loc'][-1]})"
    if wrong["type"] == _NO_OBJECT and wrong["loc"] == ("body",):
        return "Send a JSON object" + ("" if is_json else " with Content-Type: application/json")
    if message.startswith("Expected UploadFile"):
        return "Send a file, as the part of a form (multipart/form-data)"
    return message


def _unparsed(cause: BaseException | None) -> str:
    if isinstance(cause, UnicodeDecodeError):
        return f"The body: This is not JSON: no {cause.encoding} text (byte {cause.start})."
    return "The body: This is no JSON that can be read; it may be too deep."


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=NOBODY_LISTENS)
