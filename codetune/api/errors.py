"""The ONE map from errors to HTTP: status, type and code, and how each dialect words them.

What is not in the map is opaque outside: a 500 with a request id, and the rest in the log.

What cannot be answered as it was asked is 400 where the request cannot be read, and on codetune's
own paths 422 where it can and a field of it cannot be used (RFC 9110, 15.5.21). The dialects say
400 to both, as the servers do whose dialects they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from codetune.errors import (
    BadRequestError,
    CodetuneError,
    ConfigError,
    ConflictError,
    DatasetError,
    DeadlineError,
    ExportError,
    ForbiddenError,
    LoginError,
    LoginLimitError,
    ModelError,
    NotFoundError,
    OverloadedError,
    QuotaError,
    RegistryError,
    ServingError,
    SourceError,
    StoreError,
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
    (LoginError, 401, "authentication_error", "invalid_api_key"),
    (LoginLimitError, 429, "rate_limit_error", "too_many_logins"),
    (ForbiddenError, 403, "permission_error", "forbidden"),
    (NotFoundError, 404, "invalid_request_error", "not_found"),
    (ConflictError, 409, "invalid_request_error", "conflict"),
    (QuotaError, 429, "rate_limit_error", "too_many_jobs"),
    (DatasetError, 422, "invalid_request_error", "invalid_dataset"),
    (SourceError, 422, "invalid_request_error", "invalid_source"),
    (ExportError, 422, "invalid_request_error", "not_exported"),
    (ConfigError, 400, "invalid_request_error", "invalid_value"),
)
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


Style = Literal["openai", "mistral", "llamacpp", "ollama", "vllm"]
# The dialect of a path, also of one that has no route.
_LLAMACPP = (
    "/infill",
    "/completion",
    "/props",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/embedding",
)
_STYLES: tuple[tuple[str, Style], ...] = (
    ("/api/v1/", "openai"),
    ("/api/", "ollama"),
    ("/v1/fim/", "mistral"),
    ("/v1/load_lora_adapter", "vllm"),
    ("/v1/unload_lora_adapter", "vllm"),
    ("/lora-adapters", "llamacpp"),
    *((path, "llamacpp") for path in _LLAMACPP),
)
_LLAMACPP_TYPES = {404: "not_found_error", 501: "not_supported_error", 503: "unavailable_error"}
_VLLM_TYPES = {400: "InvalidUserInput", 404: "NotFoundError"}


_FOREIGN = ("/v1/", "/v1beta/")
_UNUSABLE = 422


def is_own(path: str) -> bool:
    """Is this path codetune's own, and no dialect's?"""
    return style_of(path) == "openai" and not path.startswith(_FOREIGN)


def style_of(path: str) -> Style:
    """How errors of this path are worded; OpenAI's way where no other dialect owns it."""
    return next((style for start, style in _STYLES if path.startswith(start)), "openai")


@dataclass(frozen=True)
class Failure:
    """What a client is told about an error."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, style: Style = "openai") -> dict[str, Any]:
        """The error as a dialect words it."""
        # Half a surrogate pair, which JSON may hold and a message repeat, is in no answer.
        message = self.message.encode(errors="backslashreplace").decode()
        error: dict[str, Any] = {"message": message, "type": self.type, "param": self.param}
        if style == "ollama":
            return {"error": message}
        if style == "mistral":
            return {"object": "error", **error, "code": self.code}
        if style == "llamacpp":
            kind = _LLAMACPP_TYPES.get(self.status, self.type)
            return {"error": {"code": self.status, "message": message, "type": kind}}
        if style == "vllm":
            kind = _VLLM_TYPES.get(self.status, self.type)
            return {"error": {**error, "type": kind, "code": self.status}}
        return {"error": {**error, "code": self.code}}


def failure_of(error: BaseException, request_id: str, *, own: bool = False) -> Failure:
    """Translate an error, for one of our `own` paths or a dialect's.

    What is not for clients is logged under `request_id`.
    """
    for kind, known, name, code in _STATUSES:
        if isinstance(error, kind):
            status = _UNUSABLE if own and _names_a_field(error) else known
            # A list of lines ends without a full stop, and the advice follows on the same line.
            stop = "" if not error.advice or error.message.endswith((".", "!", "?", ":")) else "."
            message = f"{error.message}{stop} {error.advice}".strip()
            if isinstance(error, UnservableModelError):
                _log.warning("Request %s: %s", request_id, error.__cause__ or error)
            return Failure(
                status,
                message,
                name,
                code,
                getattr(error, "param", None),
                _headers(error),
            )
    if isinstance(error, StoreError):
        # Its message may name hosts and folders.
        _log.error("Request %s: %s", request_id, error)
        message = f"The database does not answer (request {request_id})."
        return Failure(503, message, "server_error", "database_unavailable")
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


def _names_a_field(error: BaseException) -> bool:
    named = isinstance(error, BadRequestError) and error.param is not None
    return named or isinstance(error, ConfigError)


def plain_failure(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> Failure:
    """A failure that is no exception of ours: 403, 404, 405, 413, 422 …"""
    default = "server_error" if status >= 500 else "invalid_request_error"
    return Failure(status, message, _TYPES.get(status, default), code, param or None)


def _headers(error: BaseException) -> dict[str, str]:
    if isinstance(error, OverloadedError | LoginLimitError | QuotaError):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, LoginError):
        return {"WWW-Authenticate": "Bearer"}
    return {}
