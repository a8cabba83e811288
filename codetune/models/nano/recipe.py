"""nano's recipe: every number that shapes the model, in one place."""

from __future__ import annotations

from codetune.options import Options, option


class ModelRecipe(Options):
    """The Qwen2 network; all rows are multiples of 256, so that llama.cpp's K-quants fit."""

    vocabulary: int = option(8192, description="Tokens, the nine special ones included.")
    width: int = option(256, description="Hidden width.")
    layers: int = option(4, description="Transformer layers.")
    inner: int = option(768, description="Width inside the feed-forward part.")
    heads: int = option(4, description="Attention heads.")
    kv_heads: int = option(2, description="Key and value heads, shared by the attention heads.")
    positions: int = option(2048, description="Longest context.")
    rope_theta: float = option(10_000.0, description="Base of the rotary positions.")
    epsilon: float = option(1e-6, description="RMSNorm's epsilon.")


class DataRecipe(Options):
    """How documents become token rows."""

    seed: int = option(7, description="Order, cuts and holes all follow from it.")
    total_bytes: int = option(
        300_000_000, description="Text in the reading order before it repeats."
    )
    tokenizer_bytes: int = option(70_000_000, description="Text the tokenizer is trained on.")
    row: int = option(8192, description="Tokens per row; a row holds several isolated documents.")
    shard_bytes: int = option(10_000_000, description="Text per prepared shard.")
    fim_rate: float = option(
        0.7,
        description="Share of chunks with a hole to fill (FIM); they are shorter than the others, "
        "so that about half of the tokens are in them.",
    )
    spm_rate: float = option(
        0.75,
        description="Share of FIM chunks with the suffix first: what fills the hole then follows "
        "the prefix, but for a mark, as in any text; a small model learns little else.",
    )
    repo_header_rate: float = option(0.35, description="Chunks with repository and path header.")
    path_header_rate: float = option(0.20, description="Chunks with a path header only.")
    chunks_per_file: int = option(24, description="Most chunks of one file in one reading.")


class TrainRecipe(Options):
    """Optimisation: Muon for the matrices, AdamW for the rest; warm-up, plateau, decay."""

    seed: int = option(1, description="Initial weights.")
    matrix_rate: float = option(0.02, description="Muon's learning rate.")
    other_rate: float = option(0.004, description="AdamW's rate: embeddings, norms, biases.")
    momentum: float = option(0.95, description="Muon's momentum.")
    matrix_decay: float = option(0.02, description="Muon's weight decay, times the rate.")
    warmup_tokens: int = option(400_000, description="Linear warm-up.")
    decay_share: float = option(0.5, description="Share of the budget for the linear decay to 0.")
    averaging: float = option(0.985, description="Per step, of the running average of weights.")
    clip: float = option(1.0, description="Gradient norm limit.")
    hole_weight: float = option(
        4.0,
        description="Weight of what fills a hole, and of its end.",
    )
    short_window: int = option(
        512, description="Context at first: cheap attention, many documents."
    )
    short_tokens: int = option(14_000_000, description="Tokens with the short window.")
    window: int = option(1024, description="Context after that.")
    long_window: int = option(2048, description="Context at the end.")
    long_share: float = option(0.4, description="Share of the decay with the long window.")
    rows_per_step: tuple[tuple[int, int], ...] = option(
        ((0, 1), (1_000_000, 2), (45_000_000, 4)),
        description="(tokens seen, rows per step): small steps first.",
    )
    save_minutes: float = option(4.0, description="Minutes between checkpoints.")


class Recipe(Options):
    """The whole recipe; its digest names the run."""

    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    train: TrainRecipe = TrainRecipe()
