"""The dataset station's options."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from codetune.options import Options, option


class SpanMix(Options):
    """Shares of the three kinds of fill-in-the-middle spans; they are scaled to sum to one."""

    syntax: float = option(0.6, ge=0, description="Bodies, blocks, arguments … of the syntax tree.")
    line: float = option(0.25, ge=0, description="The rest of a line, or a few whole lines.")
    random: float = option(0.15, ge=0, description="Between any two characters.")

    @model_validator(mode="after")
    def _not_all_zero(self) -> SpanMix:
        if self.syntax + self.line + self.random <= 0:
            raise ValueError("at least one kind of span needs a share above 0")
        return self


class DatasetOptions(Options):
    """How training and held-out data are made."""

    seed: int = option(0, description="Decides every random choice; the same seed, the same bytes.")
    window: int | None = option(
        None,
        ge=64,
        le=1 << 20,
        description="Tokens of an example, at most. Default: the base's window, at most 1024.",
    )
    use_ntp: bool = option(True, description="Next-token prediction: every file's whole text.")
    use_fim: bool | Literal["auto"] = option(
        "auto", description="Fill in the middle; auto: if the base has tokens for it."
    )
    fim_rate: float = option(
        0.5,
        ge=0,
        le=1,
        description="The share of the training tokens that stand in FIM examples, when both "
        "streams are used.",
    )
    spm_rate: float = option(
        0.5,
        ge=0,
        le=1,
        description="The share of FIM examples in suffix-prefix-middle order (none for a base "
        "that was never trained on it).",
    )
    span_mix: SpanMix = option(default_factory=SpanMix, description="Which spans are taken out.")
    minimum_span: int = option(50, ge=1, description="Bytes of a syntax span, at least.")
    maximum_span: int = option(1000, ge=1, description="Bytes of a span, at most.")
    fim_loss: Literal["all", "middle"] = option(
        "all", description="Whether prefix and suffix of a FIM example carry loss, too."
    )
    header_rate: float = option(
        0.8,
        ge=0,
        le=1,
        description="The share of examples that begin with the repository and path.",
    )
    replay_share: float = option(
        0.3,
        ge=0,
        lt=1,
        description="The share of the training text that is general code, so that tuning does "
        "not forget it; from the set that ships with the embedded base. 0 for none.",
    )
    holdout_share: float = option(
        0.1,
        gt=0,
        lt=0.5,
        description="The share of the past's text held out by file, at most: the caps below "
        "make it less in a large repository.",
    )
    heldout_bytes: int = option(
        256 * 1024, ge=1024, description="Scored held-out text, at most, in bytes."
    )
    heldout_fim: int = option(200, ge=0, description="Held-out FIM prompts, at most.")
    validation_bytes: int = option(
        64 * 1024, ge=256, description="Text held out for early stopping, at most, in bytes."
    )
    minimum_future: int = option(
        12 * 1024,
        ge=0,
        description="Bytes of code added after the cut-off below which files of the past are "
        "scored, too.",
    )
    minimum_region: int = option(
        3, ge=1, description="Lines of an added region in a changed file, at least."
    )
    similarity: float = option(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity from which two files are near-duplicates.",
    )
