"""Request bodies: read from raw bytes, and described in the OpenAPI document.

They are read by hand because editors send JSON under any content type, and because the JSON
parser of pydantic bounds the depth.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from codetune.errors import BadRequestError

Body = TypeVar("Body", bound=BaseModel)

# What any route that asks a model may answer beside 200.
ASKING = {
    400: "The request cannot be answered as it was asked.",
    401: "Nobody is known by these credentials.",
    403: "This host name, web page, role or token may not ask.",
    404: "There is no such model.",
    409: "The model cannot be served.",
    413: "The body is too long.",
    429: "Too many requests are waiting; Retry-After says for how long.",
    503: "The server is shutting down, or its database does not answer.",
    504: "The answer was not ready in time.",
}
LOOKING = {status: ASKING[status] for status in (400, 401, 403, 404, 409, 413, 503)}


class Sent(BaseModel):
    """What a client sent: null is how many of them write what was not given.

    A field with several names would take the null under the first for its value otherwise.
    """

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, sent: Any) -> Any:
        if not isinstance(sent, dict):
            return sent
        return {name: value for name, value in sent.items() if value is not None}


class Request(Sent):
    """A body, or a part of one, of which only the known fields count; clients send others."""

    model_config = ConfigDict(extra="allow")


def read_body(model: type[Body], body: bytes) -> Body:
    """Parse JSON of bounded depth.

    Raises:
        BadRequestError: it is not JSON, too deep, or a field has the wrong type.
    """
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequestError(f"The body cannot be read: {first['msg']}.") from error
        # A union's members follow its field; the field is what the user can change.
        field = ".".join(str(part) for part in first["loc"][:1])
        subject = f"'{field}'" if field else "The body"
        raise BadRequestError(f"{subject}: {first['msg']}.", param=field or None) from error


def described(
    body: type[BaseModel] | None = None,
    *,
    refusals: dict[int, str] = ASKING,
    answers: str = "application/json",
    stream: str | None = None,
) -> dict[str, Any]:
    """A route's share of the OpenAPI document: its body, and every status it may have."""
    content: dict[str, Any] = {kind: {} for kind in (answers, stream) if kind}
    responses: dict[int | str, Any] = {200: {"description": "The answer.", "content": content}}
    for status, reason in refusals.items():
        responses[status] = {"description": reason, "content": {"application/json": {}}}
    extra: dict[str, Any] = {}
    if body is not None:
        schema = {"schema": inlined(body.model_json_schema(mode="validation"))}
        extra["requestBody"] = {"required": True, "content": {"application/json": schema}}
    return {"responses": responses, "openapi_extra": extra}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without references; ours are not recursive."""
    known = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolved(known[value["$ref"].rpartition("/")[2]])
            return {key: resolved(item) for key, item in value.items()}
        return [resolved(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = resolved(schema)
    return result


dump: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def event(data: Any) -> bytes:
    """A server-sent event."""
    return f"data: {dump(data)}\n\n".encode()


def line(data: Any) -> bytes:
    """A line of NDJSON."""
    return f"{dump(data)}\n".encode()
