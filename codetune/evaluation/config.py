"""The options of the evaluation."""

from __future__ import annotations

from codetune.options import Options, option


class EvaluationOptions(Options):
    """How much is scored, and what a model must achieve to be promoted."""

    text_bytes: int = option(
        256 * 1024, gt=0, description="Held-out text that is scored, in bytes, at most."
    )
    text_bytes_per_region: int = option(
        16 * 1024,
        gt=0,
        description="Bytes scored of one held-out region, at most, so that no file dominates.",
    )
    fim_prompts: int = option(
        200, ge=0, description="Fill-in-the-middle prompts that are answered, at most."
    )
    fim_new_tokens: int = option(
        160, gt=0, description="Tokens an answer may have, at most; longer middles are cut off."
    )
    general_bytes: int = option(
        128 * 1024,
        ge=0,
        description="Bytes of the general set that are scored, at most; 0 leaves it out, and "
        "then no model is promoted.",
    )
    forgetting_limit: float = option(
        0.03,
        ge=0,
        description="How much worse general bits per byte may get before the model is not "
        "promoted; 0.03 is 3 %.",
    )
    window: int | None = option(
        None,
        ge=64,
        description="Tokens a model sees at once, at most; by default 1024, or the base's window.",
    )
    bootstrap: int = option(
        2000, ge=200, le=100_000, description="Bootstrap samples behind each 95 % interval."
    )
    seed: int = option(0, ge=0, description="Chooses the samples and the bootstrap draws.")
