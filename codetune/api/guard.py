"""The layer below the watch: who may ask, how much, and what happens when something breaks.

A server on loopback is reachable from every web page in the user's browser: by DNS rebinding
(the page's own name suddenly means 127.0.0.1) and by cross-site posts. Both show in the Host
and Origin headers, which are checked; there are no CORS headers at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codetune.api.errors import Failure, failure_of, plain_failure, style_of

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
ANY_HOST = "*"
BODY_LIMIT = 8_000_000  # bytes
# Files are streamed to the disk, after the gate has seen who sends them.
UPLOAD_LIMIT = 2_000_000_000
UPLOADS = ("/api/v1/sources/upload", "/api/v1/datasets/upload", "/documents")
_OWN = "/api/v1/"  # below it, a path with a slash at its end is the same path
# What browsers are told about every answer; a page that needs more says so itself.
_SECURITY = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}


class BodyTooLargeError(Exception):
    """The body is longer than the server reads."""


class Guard:
    """ASGI middleware: host check, body limit, security headers, opaque errors.

    Where everybody has to log in, `hosts` may be `ANY_HOST`: a foreign page's requests carry no
    login, because there are no cookies.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], body_limit: int = BODY_LIMIT) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith(_OWN) and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/")
        state = scope.setdefault("state", {})
        started = False

        async def tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = list(message.get("headers", []))
                said = {name.lower() for name, _ in headers}
                headers += [(k, v) for k, v in _SECURITY.items() if k not in said]
                message = {**message, "headers": headers}
            await send(message)

        try:
            limit = UPLOAD_LIMIT if scope["path"] in UPLOADS else self._limit
            if refusal := self._refuse(scope, limit):
                await answer(refusal, scope, tagged)
                return
            await self._app(scope, self._limited(receive, limit), tagged)
        except BodyTooLargeError:
            await answer(self._too_large(limit), scope, tagged)
        except Exception as error:
            failure = failure_of(error, state.get("request_id", ""))
            if started:
                raise  # too late for a status; the connection breaks off
            await answer(failure, scope, tagged)

    def _refuse(self, scope: Scope, limit: int) -> Failure | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._serves(_name_of(host)):
            return plain_failure(403, "This host name is not served here.", "host_not_allowed")
        said = headers.get(b"origin", b"").decode("latin-1").strip().lower()
        if _is_foreign(said, self._hosts | {_name_of(host)}):
            return plain_failure(403, "Web pages may not ask this server.", "origin_not_allowed")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            return self._too_large(limit)
        return None

    def _serves(self, name: str) -> bool:
        return ANY_HOST in self._hosts or name in self._hosts

    def _limited(self, receive: Receive, limit: int) -> Receive:
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise BodyTooLargeError
            return message

        return limited

    def _too_large(self, limit: int) -> Failure:
        return plain_failure(413, f"A request may have at most {limit} bytes.", "body_too_large")


async def answer(failure: Failure, scope: Scope, send: Send) -> None:
    """Send a failure in the words of the path's dialect."""
    if (record := scope.get("state", {}).get("record")) is not None:
        record.error = failure.code
    body = json.dumps(failure.body(style_of(scope["path"]))).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    raw = [(k.lower().encode(), v.encode()) for k, v in {**headers, **failure.headers}.items()]
    await send({"type": "http.response.start", "status": failure.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _is_foreign(origin: str, own: Collection[str]) -> bool:
    """Does this Origin header name a web page of none of the hosts `own`?"""
    try:
        page = urlsplit(origin)
    except ValueError:  # no browser says this
        return True
    foreign = page.scheme in ("http", "https") and _name_of(page.netloc) not in own
    return foreign or origin == "null"  # a sandboxed frame, a data: page, or a file


def _name_of(host: str) -> str:
    """A Host header without its port; IPv6 addresses keep their brackets."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] or host
