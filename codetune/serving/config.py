"""The options of serving."""

from __future__ import annotations

from typing import Literal

from codetune.options import Options, option


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
    drain_seconds: float = option(
        0.5,
        ge=0,
        description="Seconds that answers under way have to end when the server is stopped.",
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
