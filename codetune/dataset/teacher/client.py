"""One question to an OpenAI-compatible endpoint, asked again when that may help."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from codetune.dataset.teacher.config import TeacherOptions
from codetune.errors import TeacherError

Answer = TypeVar("Answer")

_LONGEST_PAUSE = 60.0  # seconds
_LARGEST_ANSWER = 1_000_000  # bytes
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_HOPELESS = frozenset({401, 402, 403, 404})  # the next request would fail just so


class FailedRequest(Exception):
    """A request that brought no usable answer; `reason` is a word or two for the counts.

    `passing`: the endpoint was not there or too busy, which says nothing of what it was asked.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool = True,
        after: float | None = None,
        passing: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.again, self.after, self.passing = reason, again, after, passing


@dataclass(frozen=True)
class Usage:
    """Tokens as the endpoint counted them; 0 where it did not."""

    read: int = 0
    written: int = 0


class Client:
    """Speaks to one endpoint; used from several threads."""

    def __init__(self, options: TeacherOptions) -> None:
        """Read the key.

        Raises:
            TeacherError: the environment variable that should hold it does not exist.
        """
        self._options = options
        self._stopped = threading.Event()
        headers = {"Accept": "application/json"}
        if options.key_variable is not None:
            key = os.environ.get(options.key_variable)
            if not key:
                raise TeacherError(
                    f"The environment variable {options.key_variable} holds no key.",
                    advice=f"export {options.key_variable}=…, or leave key_variable out.",
                )
            headers["Authorization"] = f"Bearer {key}"
        # trust_env: a local endpoint is asked directly, whatever proxy the environment names.
        self._http = httpx.Client(
            headers=headers,
            timeout=options.timeout,
            trust_env=not options.is_local,
            follow_redirects=False,
        )

    def close(self) -> None:
        """Let waiting threads go and close the connections."""
        self._stopped.set()
        self._http.close()

    def ask(
        self, messages: list[dict[str, str]], read: Callable[[str], Answer]
    ) -> tuple[Answer, Usage]:
        """The answer as `read` understands it; `read` raises FailedRequest if it does not.

        Raises:
            FailedRequest: no attempt brought an answer that `read` takes.
            TeacherError: the endpoint refuses the key or does not know the model.
        """
        pause = self._options.backoff
        for attempt in range(self._options.retries + 1):
            try:
                text, usage = self._once(messages)
                return read(text), usage
            except FailedRequest as failure:
                if not failure.again or attempt == self._options.retries or self._is_over():
                    raise
                wait = max(failure.after or 0.0, pause * random.uniform(0.75, 1.25))
                self._stopped.wait(min(wait, _LONGEST_PAUSE))
                pause *= 2
        raise AssertionError("unreachable")

    def _is_over(self) -> bool:
        return self._stopped.is_set()

    def _once(self, messages: list[dict[str, str]]) -> tuple[str, Usage]:
        body = {
            "model": self._options.model,
            "messages": messages,
            "temperature": self._options.temperature,
            "max_tokens": 200 * self._options.batch,
        }
        until = time.monotonic() + self._options.timeout
        url = f"{self._options.url}/chat/completions"
        try:
            with self._http.stream("POST", url, json=body) as response:
                content = _content(response, until)
        except httpx.TimeoutException as error:
            raise FailedRequest("timeout", passing=True) from error
        except httpx.ConnectError as error:
            raise FailedRequest("no connection", passing=True) from error
        except httpx.HTTPError as error:
            raise FailedRequest("broken connection", passing=True) from error
        status = response.status_code
        if status in _HOPELESS:
            said = _said(content) or response.reason_phrase
            raise TeacherError(
                f"{self._options.host} refuses the request (HTTP {status}): {said}",
                advice="Check the teacher's url, model and key_variable.",
            )
        if status != 200:
            after = response.headers.get("retry-after", "")
            seconds = float(after) if after.isdigit() else None
            again = status in _AGAIN
            raise FailedRequest(f"HTTP {status}", again=again, after=seconds, passing=again)
        return _text_of(content)


def _content(response: httpx.Response, until: float) -> bytes:
    """What the endpoint sends until the clock says `until`; no more than a little above the limit.

    httpx's own timeout is for each read alone: a byte now and then would keep it waiting for ever.
    """
    content = b""
    for part in response.iter_bytes():
        content += part
        if len(content) > _LARGEST_ANSWER:
            break
        if time.monotonic() > until:
            raise FailedRequest("timeout", passing=True)
    return content


def _text_of(content: bytes) -> tuple[str, Usage]:
    """The answer's text in OpenAI's form of a chat completion."""
    if len(content) > _LARGEST_ANSWER:
        raise FailedRequest("answer too large", again=False)
    try:
        body: Any = json.loads(content)
        text = body["choices"][0]["message"]["content"]
        usage = body.get("usage") or {}
        counted = Usage(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise FailedRequest("no chat completion") from error
    if not isinstance(text, str):
        raise FailedRequest("no text")
    return text, counted


def _said(content: bytes) -> str:
    """What the endpoint says about an error, shortened; empty if it says nothing readable."""
    try:
        return str(json.loads(content)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return ""
