"""What the renderer of examples needs to know, resolved from the options and the base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codetune.errors import DatasetError, ModelError
from codetune.models.architecture import stated_window
from codetune.models.prompts import Order, Renderer, TemplateName
from codetune.records import Repository

if TYPE_CHECKING:
    from codetune.dataset.config import DatasetOptions
    from codetune.dataset.review import Review

_MOST = 1024  # tokens of a window by default
_MOSTLY, _HALF = 0.9, 0.5  # of FIM examples suffix first: all of what is asked for, nearly; a mix


@dataclass(frozen=True)
class Recipe:
    """Options without "auto"; `fim_rate` is 0 without FIM and 1 without NTP."""

    seed: int
    window: int
    fim_rate: float
    spm_rate: float
    suffix_first: Order
    mix: tuple[float, float, float]  # syntax, line, random
    minimum_span: int
    maximum_span: int
    middle_only: bool
    header_rate: float
    commit: str | None
    code: bool = True  # whether the files' text is trained on: next-token or FIM examples
    template: TemplateName = "auto"  # of conversations
    dropped: tuple[str, ...] = ()  # ids of examples that a review dropped
    replayed: bool = False  # general code, whose examples are a stream of their own


def resolve(
    options: DatasetOptions,
    renderer: Renderer,
    base: Path,
    repository: Repository,
    review: Review | None = None,
) -> Recipe:
    """Settle what the options leave open; `review` says which examples are left out.

    Raises:
        DatasetError: FIM is wanted and the base has no tokens for it, or nothing is wanted.
    """
    if options.use_fim is True and renderer.fim is None:
        raise DatasetError(
            f"The base {base.name} has no fill-in-the-middle tokens, but dataset.use_fim is on.",
            advice="Leave use_fim at auto (next-token prediction only), or take a base that has "
            "them: nano, Qwen2.5-Coder, StarCoder2, CodeLlama, DeepSeek-Coder.",
        )
    fim = bool(options.use_fim) and renderer.fim is not None
    if not options.use_ntp and not fim and not options.use_sft:
        raise DatasetError(
            "Neither next-token prediction nor fill in the middle is left to train on.",
            advice="Turn on dataset.use_ntp, or use a base with FIM tokens.",
        )
    rate = options.fim_rate if options.use_ntp else 1.0
    return Recipe(
        seed=options.seed,
        window=window_of(options, base),
        fim_rate=rate if fim else 0.0,
        spm_rate=_spm_rate(options, renderer),
        suffix_first="spm" if renderer.order == "psm" else renderer.order,
        mix=(options.span_mix.syntax, options.span_mix.line, options.span_mix.random),
        minimum_span=min(options.minimum_span, options.maximum_span),
        maximum_span=options.maximum_span,
        middle_only=options.fim_loss == "middle",
        header_rate=options.header_rate,
        commit=repository.cutoff or repository.commit,
        code=options.use_ntp or fim,
        template=options.template,
        dropped=tuple(sorted(review.dropped)) if review else (),
    )


def _spm_rate(options: DatasetOptions, renderer: Renderer) -> float:
    if renderer.fim is None or not renderer.fim.family.spm:
        return 0.0
    if options.spm_rate is not None:
        return options.spm_rate
    return _HALF if renderer.order == "psm" else _MOSTLY


def window_of(options: DatasetOptions, base: Path) -> int:
    """The wanted window, which must not be longer than the base's, or the default one.

    Raises:
        DatasetError: it is longer.
        ModelError: the base's config.json cannot be read.
    """
    config = base / "config.json"
    try:
        facts = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{config} cannot be read: {error}.") from error
    longest = stated_window(facts)
    if options.window is not None:
        if longest is not None and options.window > longest:
            raise DatasetError(
                f"dataset.window is {options.window} tokens, the base {base.name} reads {longest}.",
                advice=f"Set dataset.window to {longest} at most.",
            )
        return options.window
    return min(longest or _MOST, _MOST)
