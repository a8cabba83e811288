"""The ONE map from errors to HTTP: status, OpenAI type and code; everything else is opaque."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from codetune.errors import (
    BadRequestError,
    CodetuneError,
    DeadlineError,
    ModelError,
    OverloadedError,
    RegistryError,
    ServingError,
    UnservableModelError,
)

_log = logging.getLogger("codetune.api")

# The first class that fits counts, so that subclasses stand before their parents.
_STATUSES: tuple[tuple[type[CodetuneError], int, str, str], ...] = (
    (BadRequestError, 400, "invalid_request_error", "invalid_value"),
    (OverloadedError, 429, "rate_limit_error", "overloaded"),
    (DeadlineError, 504, "server_error", "deadline_exceeded"),
    (UnservableModelError, 409, "invalid_request_error", "model_unservable"),
    (ServingError, 503, "server_error", "unavailable"),
    (RegistryError, 404, "invalid_request_error", "model_not_found"),
)
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Failure:
    """What a client is told about an error."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def failure_of(error: BaseException, request_id: str) -> Failure:
    """Translate an error; what is not for clients is logged under `request_id`."""
    for kind, status, name, code in _STATUSES:
        if isinstance(error, kind):
            message = f"{error.message} {error.advice}".strip()
            if status == 409:
                _log.warning("Request %s: %s", request_id, error.__cause__ or error)
            return Failure(
                status,
                message,
                name,
                code,
                getattr(error, "param", None),
                _headers(error),
            )
    if isinstance(error, ModelError):
        # Its message may name folders of this machine.
        _log.error("Request %s: %s", request_id, error)
        return Failure(
            500,
            f"The model cannot be used; the server's log says why (request {request_id}).",
            "server_error",
            "model_unusable",
        )
    _log.error("Request %s failed", request_id, exc_info=error)
    return Failure(
        500, f"The server failed (request {request_id}).", "server_error", "internal_error"
    )


def plain_failure(status: int, message: str, code: str | None = None) -> Failure:
    """A failure that is no exception of ours: 403, 404, 405, 413 …"""
    default = "server_error" if status >= 500 else "invalid_request_error"
    return Failure(status, message, _TYPES.get(status, default), code)


def _headers(error: BaseException) -> dict[str, str]:
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(error.retry_after)}
    return {}
