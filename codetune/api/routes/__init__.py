"""codetune's own routes: accounts, and what they own."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Reason(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """The body of every error."""

    error: Reason


_WORDS = {
    400: "A value cannot be used.",
    401: "Nobody is logged in.",
    403: "The role or the token does not allow this.",
    404: "There is no such thing, or not for you.",
    409: "There is such a thing already.",
    413: "The body is too large.",
    422: "A field is missing or of the wrong type.",
    429: "Too many requests of this kind.",
    503: "The database does not answer.",
}
# What any of these routes may answer besides its success.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "model": Refusal} for status, words in _WORDS.items()
}
