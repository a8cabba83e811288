"""Streams of events over HTTP: server-sent events, or one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from codetune.errors import CodetuneError, ServingError

_LONGEST_LINE = 1_000_000  # bytes of one event


class TryAgainError(Exception):
    """Nothing of the answer has come; `error` is what the last attempt is answered with."""

    def __init__(self, error: CodetuneError, after: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.after = error, after


async def events_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of server-sent events, or of one object a line."""
    held = b""
    async for chunk in response.aiter_bytes():
        *whole, held = (held + chunk).split(b"\n")
        if len(held) > _LONGEST_LINE:
            raise ServingError("it sent a line without an end.")
        for line in whole:
            if (data := _data_of(line)) is not None:
                yield data
    if (data := _data_of(held)) is not None:
        yield data


def _data_of(line: bytes) -> dict[str, Any] | None:
    line = line.strip()
    if line.startswith((b":", b"event:", b"id:", b"retry:")) or not line:
        return None
    line = line.removeprefix(b"data:").strip()
    line = line.removeprefix(b"error:").strip()  # llama.cpp's own field
    if line == b"[DONE]":
        return None
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ServingError("it sent something that is no JSON.") from error
    if not isinstance(data, dict):
        raise ServingError("it sent something that is no JSON object.")
    return data


async def text_of(response: httpx.Response) -> str:
    """The beginning of an error's body."""
    read = b""
    async for chunk in response.aiter_bytes():
        read += chunk
        if len(read) > _LONGEST_LINE:
            break
    return read.decode(errors="replace")


def said_in(text: str) -> str:
    """What a server says about an error, shortened."""
    try:
        value = json.loads(text)
        error = value.get("error", value)
        said = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        said = text
    return " ".join(str(said).split())[:200]
