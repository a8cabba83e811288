"""Which model words the instructions, and what it may cost."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from codetune.options import Options, option

_HERE = ("localhost", "127.0.0.1", "::1")


class TeacherOptions(Options):
    """A model behind an OpenAI-compatible endpoint that words instructions anew.

    Without a `url` no teacher is asked. With one, parts of the repository are sent to it.
    """

    url: str | None = option(
        None,
        description="The endpoint's base URL, e.g. http://127.0.0.1:8000/v1 for `codetune serve`. "
        "The text of instructions and answers is sent there.",
    )
    remote: bool = option(
        False,
        description="Allow a url that is not on this machine: parts of the repository leave it.",
    )
    model: str = option("nano", description="The model's name at the endpoint.")
    key_variable: str | None = option(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The environment variable that holds the key; the key itself is never "
        "written anywhere.",
    )
    most: int = option(500, ge=1, description="Instructions that are worded anew, at most.")
    batch: int = option(3, ge=1, le=20, description="Instructions in one request.")
    parallel: int = option(4, ge=1, le=64, description="Requests at the same time.")
    timeout: float = option(60.0, gt=0, description="Seconds that one request may take.")
    retries: int = option(4, ge=0, le=10, description="Further attempts after a failed request.")
    backoff: float = option(
        1.0, ge=0, description="Seconds before the second attempt; doubled for each further one."
    )
    temperature: float = option(0.7, ge=0, le=2, description="How varied the wording is.")
    price_input: float = option(
        0.0, ge=0, description="The price of a million tokens read, for the estimate of the cost."
    )
    price_output: float = option(0.0, ge=0, description="The price of a million tokens written.")

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port  # the second raises where it is none
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("an address begins with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ValueError("no key or name belongs into the address; use key_variable")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _stays_here(self) -> TeacherOptions:
        if self.url is not None and not self.is_local and not self.remote:
            raise ValueError(
                f"{self.host} is not this machine: set remote to true if parts of the repository "
                "may be sent there"
            )
        return self

    @property
    def host(self) -> str:
        """The machine that text is sent to."""
        return urlsplit(self.url or "").hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether that machine is this one."""
        return self.host in _HERE
