"""The proof that what was written is the model: the same logits, and the same greedy text.

The model as it is served (base in float32, adapter beside it) answers some prompts. What was
written is loaded as its future user loads it, reads the same prompts and answers, and is compared
at every token: the Kullback-Leibler divergence of the two distributions in nats, the largest
difference between two logits, and whether its greedy text is the same. Where weights are only
added up, in float32, the logits have to be equal up to the order of the sums. Where they are
rounded, too, they cannot be; what rounding may cost is stated here, in nats, by type, and it is
compared with what tuning has changed: an export in which rounding outweighs the tuning is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from codetune.errors import ParityError
from codetune.export.probes import ANSWER, Probe

if TYPE_CHECKING:
    from torch import Tensor, nn

# A sum in another order: the largest difference of two logits, in parts of the largest logit.
EXACT = 1e-3
# Mean divergence in nats a token that rounding the weights to a type may cost. Measured on nano
# with adapters: bfloat16 2e-5, float16 2e-7, q8_0 2e-4, q5 7e-3, q4 0.02 to 0.05.
ROUNDING = {
    "float32": 1e-6,
    "bfloat16": 0.005,
    "float16": 5e-4,
    "f32": 1e-6,
    "bf16": 0.005,
    "f16": 5e-4,
    "q8_0": 0.01,
    "q5_1": 0.1,
    "q5_0": 0.1,
    "q4_1": 0.4,
    "q4_0": 0.4,
}
LOSSLESS = ("float32", "bfloat16", "float16", "f32", "bf16", "f16")  # no blocks with one scale
OUTWEIGHS = 0.5  # of what tuning changed, that rounding to one of these may undo
_TUNED = 1e-8  # nats below which a model counts as untuned, and has nothing to lose
_TIE = 1e-2  # of the largest logit, between the two likeliest tokens: either may be the greedy one

Answers = Callable[[Sequence[Probe]], list[list[int]]]


@dataclass(frozen=True)
class Reference:
    """What the model itself says; logits are [answer, vocabulary], one tensor a prompt."""

    probes: Sequence[Probe]
    answers: list[list[int]]  # greedy, of the engine that serves
    logits: list[Tensor]
    change: float  # nats between the base and the tuned model: what tuning has done


@dataclass(frozen=True)
class Parity:
    """How far what was written is from the model."""

    compared: str  # who answered
    precision: str
    tokens: int
    divergence: float  # nats a token, mean
    tolerance: float
    largest_difference: float  # of two logits
    agreeing: float  # share of tokens at which both choose the same
    same_texts: int  # greedy answers that are equal to the last token
    texts: int
    changed_by_tuning: float  # nats a token between base and tuned model

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def reference_of(
    model: nn.Module,
    probes: Sequence[Probe],
    given: Sequence[list[int]],
    base: nn.Module | None = None,
) -> Reference:
    """What the model as it is served says: `given` by the server's engine, logits here.

    `base` is what a model without an adapter was tuned from.

    Raises:
        ParityError: the engine's greedy answers are not those of the same weights in
            transformers, so there is nothing to compare with.
    """
    kept = [(probe, answer) for probe, answer in zip(probes, given, strict=True) if answer]
    if not kept:
        raise ParityError(
            "The model has an empty answer to every prompt of the comparison.",
            advice="It has learned to say nothing: look at its report, or tune it again.",
        )
    logits = [answer_logits(model, probe.ids, answer) for probe, answer in kept]
    for (probe, answer), scores in zip(kept, logits, strict=True):
        if (place := _parts(answer, scores)) is not None:
            raise ParityError(
                f"The server's engine answers a prompt ({probe.kind}) otherwise than transformers "
                f"does with the same weights, from token {place} on.",
                advice="This is a defect of codetune; please report it with the base's name.",
            )
    change = _mean(
        [_divergence(*pair) for pair in zip(logits, _before(model, base, kept), strict=True)]
    )
    return Reference([p for p, _ in kept], [a for _, a in kept], logits, change)


def _before(
    model: nn.Module, base: nn.Module | None, kept: Sequence[tuple[Probe, list[int]]]
) -> list[Tensor]:
    """The logits before tuning: of the base, or of the model with its adapter switched off."""
    # Only PEFT's have it. Where nothing is adapted, PEFT is not asked: with it bitsandbytes comes.
    adapted: Any = model
    off = adapted.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    with off:
        return [answer_logits(base or model, probe.ids, answer) for probe, answer in kept]


def compare(
    reference: Reference,
    model: nn.Module,
    *,
    name: str,
    precision: str,
    greedy: Callable[[Probe, int], list[int]] | None = None,
) -> Parity:
    """Let `model` read what the reference read; `greedy` is how it answers by itself."""
    import torch

    divergences, largest, agree, same, total = [], 0.0, 0, 0, 0
    for probe, answer, ours in zip(
        reference.probes, reference.answers, reference.logits, strict=True
    ):
        theirs = answer_logits(model, probe.ids, answer)
        divergences.append(_divergence(ours, theirs))
        largest = max(largest, float((ours - theirs).abs().max()))
        chosen = theirs.argmax(-1)
        agree += int((chosen == torch.tensor(answer)).sum())
        total += len(answer)
        written = greedy(probe, len(answer)) if greedy else chosen.tolist()
        same += written == answer
    return Parity(
        compared=name,
        precision=precision,
        tokens=total,
        divergence=_mean(divergences),
        tolerance=ROUNDING[precision],
        largest_difference=largest,
        agreeing=agree / total,
        same_texts=same,
        texts=len(reference.answers),
        changed_by_tuning=reference.change,
    )


def require_equal(found: Parity, reference: Reference) -> None:
    """Refuse what is not the same function up to the order of its sums.

    Raises:
        ParityError
    """
    scale = max(1.0, *(float(scores.abs().max()) for scores in reference.logits))
    if found.largest_difference > EXACT * scale:
        raise ParityError(
            f"{found.compared} is not the model: a logit differs by "
            f"{found.largest_difference:.3g}, where {EXACT * scale:.3g} may be rounding.",
            advice="Nothing was kept. This adapter or architecture cannot be exported; please "
            "report it with the base's name.",
        )


def require_close(found: Parity) -> None:
    """Refuse what rounding has moved further than its type explains, or than tuning had.

    Raises:
        ParityError
    """
    if not found.divergence <= found.tolerance:
        raise ParityError(
            f"{found.compared} is not the model: its answers are {found.divergence:.3g} nats a "
            f"token away, where rounding to {found.precision} may cost {found.tolerance:g}.",
            advice="Nothing was kept. Export with more bits (--quantize q8_0 or f16; "
            "--dtype float32).",
        )
    lost = found.divergence / max(found.changed_by_tuning, _TUNED)
    if found.precision in LOSSLESS and found.changed_by_tuning > _TUNED and lost > OUTWEIGHS:
        raise ParityError(
            f"Rounding to {found.precision} would move the model by {found.divergence:.3g} nats a "
            f"token, and tuning has moved it by {found.changed_by_tuning:.3g}: the adapter is "
            "lost in the rounding.",
            advice="Nothing was kept. Export with --dtype float32 (GGUF: --quantize f32), or "
            "serve the adapter beside its base.",
        )


def answer_logits(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """[answer, vocabulary], float32: the logits from which each token of `answer` was chosen."""
    import torch

    from codetune.models.seq2seq import target_logits

    whole: Any = model
    with torch.inference_mode():
        if whole.config.is_encoder_decoder:
            return target_logits(model, [prompt], [answer])[0].float()
        ids = torch.tensor([[*prompt, *answer[:-1]]], device=whole.device)
        logits: Tensor = whole(input_ids=ids, use_cache=False).logits[0, -len(answer) :]
        return logits.float()


def greedy_text(model: nn.Module) -> Callable[[Probe, int], list[int]]:
    """How transformers itself answers, ending where the folder's generation_config says."""
    import torch

    from codetune.models.seq2seq import Marks

    whole: Any = model
    marks = Marks.of(whole.config) if whole.config.is_encoder_decoder else None

    def answer(probe: Probe, length: int) -> list[int]:
        given = marks.source(probe.ids) if marks else list(probe.ids)
        ids = torch.tensor([given])
        with torch.inference_mode():
            made = whole.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=length,
            )
        return [int(token) for token in made[0, 1 if marks else len(given) :]]

    return answer


def _parts(answer: Sequence[int], scores: Tensor) -> int | None:
    """The first token that greedy choice does not explain; two that are equal are both greedy."""
    for place, (token, row) in enumerate(zip(answer, scores, strict=True)):
        if float(row.max() - row[token]) > _TIE * max(1.0, float(row.abs().max())):
            return place
    return None


def _divergence(ours: Tensor, theirs: Tensor) -> list[float]:
    """KL(ours ‖ theirs) in nats at each token."""
    import torch

    p, q = torch.log_softmax(ours.double(), -1), torch.log_softmax(theirs.double(), -1)
    return [max(0.0, float(value)) for value in (p.exp() * (p - q)).sum(-1)]


def _mean(rows: Sequence[Sequence[float]]) -> float:
    values = [value for row in rows for value in row]
    return sum(values) / len(values)


__all__ = ["ANSWER", "Parity", "Reference", "compare", "reference_of"]
