"""The dataset station's options."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from codetune.dataset.instruct.config import InstructionOptions
from codetune.options import Options, option


class SpanMix(Options):
    """Shares of the three kinds of fill-in-the-middle spans; they are scaled to sum to one."""

    syntax: float = option(
        0.55, ge=0, description="Bodies, blocks, arguments … of the syntax tree."
    )
    line: float = option(0.4, ge=0, description="The rest of a line, or a few whole lines.")
    random: float = option(
        0.05,
        ge=0,
        description="Between any two characters. Many of them teach a model to stop anywhere.",
    )

    @model_validator(mode="after")
    def _not_all_zero(self) -> SpanMix:
        if self.syntax + self.line + self.random <= 0:
            raise ValueError("at least one kind of span needs a share above 0")
        return self


class MixedSet(Options):
    """A set of training data of your own, or a public one, beside the repository's."""

    name: str = option(
        description="What its stream is called, in the manifest and in held-out losses.",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$",
    )
    path: str = option(description="A file or folder; ~ is your home.")
    format: Literal["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "text"] = option(
        "auto", description="What the rows' fields mean; auto: by their names."
    )
    columns: dict[str, str] = option(
        default_factory=dict,
        description="Field → this set's own name for it, e.g. {instruction: question}.",
    )
    encoding: str | None = option(
        None, description="Of a text file that is neither UTF-8 nor says what it is."
    )
    licence: str = option("unknown", description="Its SPDX expression, for the records.")
    share: float | None = option(
        None, gt=0, lt=1, description="Its share of all training tokens, 0..1."
    )
    weight: float | None = option(
        None,
        gt=0,
        description="Instead of a share: its tokens, in relation to the repository's (1.0: as "
        "many).",
    )
    epochs_at_most: float = option(
        4.0, gt=0, le=100, description="How often a set too small for its share is repeated."
    )
    skip_bad: bool = option(
        False,
        description="Leave rows out that cannot be used, and count them; else they are an error.",
    )

    @model_validator(mode="after")
    def _share_or_weight(self) -> MixedSet:
        if (self.share is None) == (self.weight is None):
            raise ValueError("a set needs a share or a weight, and not both")
        if self.name in ("ntp", "fim", "sft", "replay"):
            raise ValueError(f"'{self.name}' is the name of a stream of the repository's own")
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
    train_on_code: bool = option(
        True, description="Files that hold a program; false: none of them is trained on."
    )
    train_on_docs: bool = option(
        True,
        description="Prose: Markdown, reStructuredText and plain text; false: none of it is "
        "trained on.",
    )
    use_sft: bool = option(
        False,
        description="Instructions with real answers, made of the repository's documentation, "
        "tests and commits.",
    )
    instructions: InstructionOptions = option(
        default_factory=InstructionOptions, description="Which instructions are made (use_sft)."
    )
    fim_rate: float = option(
        0.5,
        ge=0,
        le=1,
        description="The share of the training tokens that stand in FIM examples, when both "
        "streams are used.",
    )
    spm_rate: float | None = option(
        None,
        ge=0,
        le=1,
        description="The share of FIM examples in suffix-prefix-middle order. By default 0.9 for a "
        "base that fills gaps in this order (nano), none for one that was never trained on it, "
        "else 0.5.",
    )
    span_mix: SpanMix = option(default_factory=SpanMix, description="Which spans are taken out.")
    minimum_span: int = option(
        8,
        ge=1,
        description="Bytes of a syntax span, at least: most gaps that editors ask for are short.",
    )
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
        0.45,
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
    template: Literal["auto", "base", "chatml", "alpaca", "llama2", "plain"] = option(
        "auto",
        description="How conversations are written. auto: the base's own chat template, else "
        "ChatML if the base has its tokens, else plain turns. The tuned model is served with it.",
    )
    mix: tuple[MixedSet, ...] = option(
        (),
        description="Sets of training data beside the repository's, each with its share of the "
        "tokens.",
    )
    refused_at_most: float = option(
        0.1,
        ge=0,
        le=1,
        description="The share of a stream's conversations that may be left out because an "
        "answer does not fit the window or the template refuses them; above it, building stops.",
    )
    review: str | None = option(
        None, description="A file of decisions from `codetune data review`, which are honoured."
    )

    @model_validator(mode="after")
    def _sound_mix(self) -> DatasetOptions:
        names = [one.name for one in self.mix]
        if len(set(names)) < len(names):
            raise ValueError("two sets of the mix have the same name")
        shares = [one.share for one in self.mix if one.share is not None]
        if shares and len(shares) < len(self.mix):
            raise ValueError("give all sets of the mix a share, or all a weight")
        if sum(shares) >= 1:
            raise ValueError("the shares of the mix leave nothing for the repository")
        return self
