"""What one model makes of the held-out code: bits per byte, and answers to gaps in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from codetune.distance import edit_similarity, normalised
from codetune.errors import EvaluationError
from codetune.evaluation.config import EvaluationOptions
from codetune.evaluation.generation import Prompt, greedy_answers
from codetune.evaluation.likelihood import Passage, score_passages
from codetune.evaluation.samples import Gap
from codetune.models.footprint import give_back
from codetune.models.prompts import Fitted, GapEdges, Renderer, fit_fim, until_gap_end
from codetune.progress import Progress

if TYPE_CHECKING:
    import torch

# A base may have a window of 128 k; that costs much and says little more. As in training.
DEFAULT_WINDOW = 1024


@dataclass(frozen=True)
class Exam:
    """Everything that both sides are asked; the prompts are rendered once."""

    passages: Sequence[Passage]
    general: Sequence[Passage]
    gaps: Sequence[Gap]
    fitted: Sequence[Fitted]
    prompts: Sequence[Prompt]
    window: int


@dataclass
class Answers:
    """What one side answered, in the order of the exam."""

    bits: list[float]
    general_bits: list[float]
    texts: list[str] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    similarity: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return self.__dict__


def prepare(
    renderer: Renderer,
    passages: Sequence[Passage],
    general: Sequence[Passage],
    gaps: Sequence[Gap],
    *,
    window: int,
    new_tokens: int,
) -> Exam:
    """Fit each gap's prefix and suffix into the window and render them."""
    fitted, prompts = [], []
    new_tokens = min(new_tokens, window // 4)
    for gap in gaps:
        limit = min(len(renderer.plain(gap.middle)) * 5 // 4 + 8, new_tokens)
        parts = fit_fim(
            renderer, gap.prefix, gap.suffix, window, limit, repo=gap.repo, path=gap.path
        )
        fitted.append(parts)
        opening = renderer.fim_opening(parts.prefix, parts.suffix, repo=gap.repo, path=gap.path)
        prompts.append(Prompt(opening.ids, limit, opening.beginning))
    return Exam(passages, general, gaps, fitted, prompts, window)


def answer(
    model: torch.nn.Module, renderer: Renderer, exam: Exam, side: str, progress: Progress
) -> Answers:
    """Score the texts and answer the gaps of `exam` with one model; `side` names its bars."""
    bits = score_passages(
        model,
        renderer,
        [*exam.passages, *exam.general],
        window=exam.window,
        progress=progress,
        label=f"score {side}",
    )
    edges = [GapEdges.of(gap.prefix, gap.suffix) for gap in exam.gaps]
    give_back()
    texts = answer_gaps(model, renderer, exam.prompts, edges, side, progress)
    truths = [normalised(gap.middle) for gap in exam.gaps]
    shown = [normalised(text) for text in texts]
    pairs = list(zip(shown, truths, strict=True))
    return Answers(
        bits=bits[: len(exam.passages)],
        general_bits=bits[len(exam.passages) :],
        texts=texts,
        exact=[text == truth for text, truth in pairs],
        similarity=[edit_similarity(text, truth) for text, truth in pairs],
    )


def answer_gaps(
    model: torch.nn.Module,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    edges: Sequence[GapEdges],
    side: str,
    progress: Progress,
) -> list[str]:
    """The greedy middle for each prompt, up to the gap's end, as the server ends it."""
    with progress.task(f"complete with {side}", total=len(prompts), unit="prompts") as task:
        ids = greedy_answers(model, prompts, renderer.fim_stops, done=task.advance)
    texts = []
    for answer, prompt, edge in zip(ids, prompts, edges, strict=True):
        text = renderer.decode(answer)[len(prompt.beginning.text) if prompt.beginning else 0 :]
        texts.append(until_gap_end(text, edge, unfinished=len(answer) >= prompt.limit))
    return texts


def scored_window(model_window: int | None, options: EvaluationOptions) -> int:
    """The tokens of context that both sides may read.

    Raises:
        EvaluationError: neither the base's config nor the options say how many.
    """
    if model_window is None and options.window is None:
        raise EvaluationError(
            "The base's config does not say how long its window is.",
            advice="Set evaluation.window.",
        )
    window = options.window or DEFAULT_WINDOW
    return window if model_window is None else min(model_window, window)
