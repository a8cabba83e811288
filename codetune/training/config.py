"""The options of training."""

from __future__ import annotations

from typing import Literal

from codetune.options import Options, option


class TrainingOptions(Options):
    """How the base is tuned. Defaults marked "by method" or "by size" are chosen at run start."""

    method: Literal["lora", "full", "dora", "qlora", "qlora8"] = option(
        "lora",
        description="lora: small matrices beside the frozen base's linear layers. full: every "
        "weight; learns more from much code, and forgets more. dora: LoRA with a trained length "
        "of each row (arXiv 2402.09353); cannot share a batch with other adapters when served. "
        "qlora, qlora8: LoRA on a base kept in 4 (nf4) or 8 bits, for little memory; needs "
        "the extra [quant].",
    )
    epochs: float = option(
        3.0,
        gt=0,
        le=100,
        description="Passes over the data. Up to 4 are nearly as good as new data "
        "(arXiv 2305.16264); the best checkpoint on validation loss is kept.",
    )
    max_steps: int | None = option(
        None, ge=1, description="Stop after this many optimizer steps, whatever `epochs` says."
    )
    learning_rate: float | None = option(
        None,
        gt=0,
        le=1,
        description="Peak learning rate; by method and size of the model when not set.",
    )
    learning_rate_scale: float = option(
        1.0, gt=0, le=10, description="Times the default rate, where learning_rate is not set."
    )
    gap_weight: float = option(
        8.0,
        gt=0,
        le=100,
        description="How much a token that fills a gap, or ends it, weighs in the loss of a "
        "fill-in-the-middle example; every other token weighs 1. They are few (about 2 %), and "
        "without weight tuning makes the end of a gap less sure. Validation is not weighted.",
    )
    distillation: float | None = option(
        None,
        ge=0,
        le=100,
        description="How much replayed general code weighs, of which an adapter learns what the "
        "base itself says of each token instead of the token: less is forgotten for the same "
        "gain. 0: it is learned as any other text, as with method full and encoder-decoders. By "
        "length when not set: 10 in a run of 2.5 million tokens or more, less in a shorter one, "
        "which forgets less; at least 3.",
    )
    warmup: float = option(
        0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    schedule: Literal["cosine", "linear", "constant"] = option(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw", "adafactor", "muon"] = option(
        "adamw",
        description="adamw; adamw8bit: its moments in 8 bits, a quarter of their memory (extra "
        "[quant]); paged_adamw: moments that move to the computer's memory when the GPU's is "
        "full (extra [quant]); adafactor: almost no moments; muon: orthogonalised updates of "
        "the matrices, AdamW for the rest.",
    )
    weight_decay: float = option(0.01, ge=0, le=1, description="Decoupled weight decay.")
    clip: float = option(1.0, gt=0, description="Largest norm of a step's gradient.")
    batch_tokens: int | None = option(
        None,
        ge=64,
        le=1 << 30,
        description="Tokens of one optimizer step, about; by size of the data when not set.",
    )
    micro_batch_tokens: int | None = option(
        None,
        ge=64,
        le=1 << 30,
        description="Tokens of one forward pass, about, and at least one row (training.window): "
        "the memory knob. Does not change what is learned. By size of the model when not set.",
    )
    window: int | None = option(
        None,
        ge=16,
        le=1 << 20,
        description="Tokens of one packed row; the longest example's length when not set.",
    )
    rank: int | None = option(
        None,
        ge=1,
        le=1024,
        description="LoRA: rank of the added matrices; when not set 64 for a base of less than 50 "
        "million weights, in whose matrices a rank of 16 has little room, else 16. On top of "
        "another adapter 16.",
    )
    alpha: float | None = option(
        None,
        gt=0,
        le=1e38,  # what float32 holds
        description="LoRA: scale before `rslora`'s division; the rank when not set.",
    )
    rslora: bool = option(
        True,
        description="LoRA: divide the scale by √rank (rsLoRA, arXiv 2312.03732), which keeps "
        "larger ranks learning; false: by the rank, as the first LoRA did.",
    )
    target_modules: tuple[str, ...] | None = option(
        None,
        min_length=1,
        description="LoRA: last names of the layers that get adapters (q_proj …); every linear "
        "layer but the head when not set, which learns most.",
    )
    dropout: float = option(0.0, ge=0, lt=1, description="LoRA: dropout before the adapters.")
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto",
        description="Arithmetic of the matrix products; auto: bf16 where this machine is fast at "
        "it. The trained weights and the optimizer are always kept in float32.",
    )
    gradient_checkpointing: bool = option(
        False, description="Compute activations twice instead of keeping them: slower, smaller."
    )
    validate_every: int | None = option(
        None, ge=1, description="Optimizer steps between validations; by length when not set."
    )
    validation_tokens: int = option(
        100_000, ge=0, description="At most this many validation tokens are scored each time."
    )
    patience: int = option(
        5, ge=1, description="Stop when this many validations in a row brought nothing better."
    )
    forgetting_limit: float | None = option(
        0.01,
        ge=0,
        description="How much the loss on general code may rise; 0.01 is 1 %. After training the "
        "weights go back towards the base's until it holds (WiSE-FT, arXiv 2109.01903), what acts "
        "on general code's inputs first (RegMean, arXiv 2212.09849). null: they stay where "
        "training left them.",
    )
    checkpoint_seconds: float = option(
        10.0,
        ge=0,
        description="Least time between checkpoints; more when writing one is slow. 0: each step.",
    )
    memory_limit: int | None = option(
        None, ge=1, description="Bytes that training may use; the machine's rest when not set."
    )
    recover: bool = option(
        True,
        description="Out of memory: smaller passes with the same effective batch, then gradient "
        "checkpointing. Loss not finite or diverged: back to the last good checkpoint with half "
        "the learning rate, twice at most. false: stop at once.",
    )
    allow_quantised_fallback: bool = option(
        False,
        description="Out of memory even so: keep the base in 8, then 4 bits (method lora only).",
    )
    seed: int = option(0, ge=0, lt=1 << 63, description="Seed of everything random in training.")
