"""The options of serving."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from codetune.options import Options, option

EMBEDDED_ENGINE = "local"  # what metrics and logs call it
_HERE = ("localhost", "127.0.0.1", "::1")


class EngineOptions(Options):
    """A server that answers beside the embedded engine.

    Its models are asked for as remote:NAME, or remote:NAME/MODEL. With `base`, this server's
    own models on that base are answered there, too.
    """

    name: str = option(pattern=r"^[a-z][a-z0-9_-]*$", description="What it is called here.")
    kind: Literal["openai", "vllm", "llamacpp", "ollama"] = option(
        "openai",
        description="What it speaks. openai: any server with OpenAI's API, Gemini's included, "
        "and `codetune serve`.",
    )
    url: str = option(
        description="Its address, e.g. http://127.0.0.1:8001/v1. What is asked is sent there."
    )
    remote: bool = option(
        False,
        description="Allow an address that is not on this machine: prompts, which hold code, "
        "leave it.",
    )
    model: str | None = option(
        None, description="The model that remote:NAME means.  [the first one that it lists]"
    )
    base: str | None = option(
        None,
        description="The base model whose weights it serves, by its name here. Prompts are then "
        "rendered here, and requests for this base and its adapters go there.",
    )
    adapters: bool = option(
        False,
        description="vLLM started with --enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and a "
        "view of this server's model folders: adapters are loaded into it.",
    )
    most_adapters: int = option(
        16, ge=1, description="Adapters loaded into it at a time; the oldest idle one leaves."
    )
    fallback: bool = option(
        False,
        description="Let the base answer where an adapter cannot be loaded; the answer says so.",
    )
    key_variable: str | None = option(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The environment variable that holds its key; the key itself is never "
        "written anywhere.",
    )
    connect_timeout: float = option(5.0, gt=0, description="Seconds to reach it.")
    timeout: float = option(60.0, gt=0, description="Seconds of silence before it is given up.")
    retries: int = option(
        2, ge=0, le=10, description="Further attempts while nothing of the answer has come."
    )

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port  # the second raises where it is none
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("an address begins with http:// or https://")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("no key or name belongs into the address; use key_variable")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _fits_together(self) -> EngineOptions:
        if not self.is_local and not self.remote:
            raise ValueError(
                f"{urlsplit(self.url).hostname} is not this machine: set remote to true if "
                "prompts may be sent there"
            )
        if self.adapters and (self.kind != "vllm" or self.base is None):
            raise ValueError("adapters needs kind vllm and the base that they belong to")
        return self

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return urlsplit(self.url).hostname in _HERE

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.removesuffix("/v1")

    @property
    def openai(self) -> str:
        """The address of its OpenAI API."""
        return self.url if self.kind == "openai" else f"{self.root}/v1"


class ServingOptions(Options):
    """How models are served."""

    base: str = option("nano", description="The base model that is listed beside the tuned ones.")
    max_running: int = option(
        16, ge=1, le=1024, description="Answers that one set of weights writes at the same time."
    )
    max_waiting: int = option(
        64, ge=1, le=65536, description="Requests that wait; one more is answered with 429."
    )
    max_new_tokens: int = option(
        4096, ge=1, description="The most tokens that one answer may have."
    )
    deadline: float = option(120.0, gt=0, description="Seconds that one answer may take.")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        description="Precision of the weights. auto: float32 for models of up to 250 million "
        "parameters on a CPU (exact, and as fast), else bfloat16.",
    )
    weights_gb: float = option(
        8.0,
        gt=0,
        description="Memory for bases and models tuned in full; the least recently used leave "
        "first.",
    )
    adapters_gb: float = option(
        2.0, gt=0, description="Memory for adapters; the least recently used leave first."
    )
    idle_minutes: float = option(
        30.0,
        ge=0,
        description="An adapter that nobody has used for so long leaves memory; it comes back "
        "from disk when it is asked for. 0: never.",
    )
    cache_gb: float = option(
        2.0,
        gt=0,
        description="Memory for the keys and values of running answers, per model. What they "
        "leave free holds those of earlier answers, so that their tenant's next request goes on "
        "from there.",
    )
    reuse_prefixes: bool = option(
        True,
        description="Go on from what a tenant's earlier requests had read; never from another "
        "tenant's.",
    )
    engines: list[EngineOptions] = option(
        default_factory=list, description="Servers that answer beside the embedded engine."
    )
    log_format: Literal["text", "json"] = option(
        "text",
        description="How the server's log on standard error is written: lines for people, or one "
        "JSON object a line. Neither holds prompts, answers or tokens.",
    )
    drain_seconds: float = option(
        10.0,
        ge=0,
        description="Seconds that answers under way have to end when the server is stopped by "
        "SIGTERM; after Ctrl-C it is half a second at most.",
    )
    adapter_roots: tuple[str, ...] = option(
        (),
        description="Folders below which /v1/load_lora_adapter may read adapters that are not "
        "registered. None by default.",
    )
    keep_texts: bool = option(
        False,
        description="Keep the prompts and texts of completions whose fate an editor reports, for "
        "later training; without it, only whether they were accepted.",
    )

    @field_validator("engines")
    @classmethod
    def _differ(cls, engines: list[EngineOptions]) -> list[EngineOptions]:
        for field in ("name", "base"):
            values = [getattr(engine, field) for engine in engines]
            for value in values:
                if value is not None and values.count(value) > 1:
                    raise ValueError(f"two engines have the {field} '{value}'")
        if any(engine.name == EMBEDDED_ENGINE for engine in engines):
            raise ValueError(f"'{EMBEDDED_ENGINE}' is the embedded engine; choose another name")
        return engines
