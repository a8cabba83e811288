"""From two sides' answers to a scorecard with intervals, and to its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from codetune.evaluation.completion import Answers, Exam
from codetune.evaluation.config import EvaluationOptions
from codetune.evaluation.gate import judge
from codetune.evaluation.intervals import Comparison, compare
from codetune.records import Score, Scorecard


def make_scorecard(
    exam: Exam, base: Answers, tuned: Answers, options: EvaluationOptions, reference: str = ""
) -> Scorecard:
    """Compare the sides and pass the gate's verdict; `reference` as in the record."""
    found = comparisons(exam, base, tuned, options)
    counts = {
        "files": len({p.cluster for p in exam.passages}),
        "bytes": sum(len(p.text.encode()) for p in exam.passages),
        "prompts": len(exam.gaps),
        "prompt_files": len({gap.cluster for gap in exam.gaps}),
        "general_files": len({p.cluster for p in exam.general}),
        "general_bytes": sum(len(p.text.encode()) for p in exam.general),
    }
    text, general = found["bits_per_byte"], found["general_bits_per_byte"]
    assert text is not None  # samples.py refuses a dataset without held-out text
    similarity = found["fim_edit_similarity"]
    verdict = judge(
        base=text.base,
        tuned=text.tuned,
        change=text.change,
        general_base=general.base if general else None,
        general_tuned=general.tuned if general else None,
        fim_change=similarity.change if similarity else None,
        files=counts["files"],
        forgetting_limit=options.forgetting_limit,
    )
    sides = {
        side: Score(
            bits_per_byte=getattr(text, side),
            fim_exact_match=_side(found["fim_exact_match"], side),
            fim_edit_similarity=_side(similarity, side),
            general_bits_per_byte=_side(general, side),
            n=counts,
        )
        for side in ("base", "tuned")
    }
    return Scorecard(
        base=sides["base"],
        tuned=sides["tuned"],
        change={name: c.change for name, c in found.items() if c is not None},
        promoted=verdict.promoted,
        reasons=verdict.reasons,
        reference=reference,
    )


def _side(comparison: Comparison | None, side: str) -> Any:
    return getattr(comparison, side) if comparison else None


def comparisons(
    exam: Exam, base: Answers, tuned: Answers, options: EvaluationOptions
) -> dict[str, Comparison | None]:
    """Each measure of both sides; None where there was nothing to measure."""

    def of(
        b: Sequence[float], t: Sequence[float], weights: Sequence[float], clusters: Sequence[str]
    ) -> Comparison | None:
        if not clusters:
            return None
        return compare(b, t, weights, clusters, draws=options.bootstrap, seed=options.seed)

    text_bytes = [len(p.text.encode()) for p in exam.passages]
    general_bytes = [len(p.text.encode()) for p in exam.general]
    files = [gap.cluster for gap in exam.gaps]
    ones = [1.0] * len(files)
    return {
        "bits_per_byte": of(base.bits, tuned.bits, text_bytes, [p.cluster for p in exam.passages]),
        "fim_exact_match": of(base.exact, tuned.exact, ones, files),
        "fim_edit_similarity": of(base.similarity, tuned.similarity, ones, files),
        "general_bits_per_byte": of(
            base.general_bits, tuned.general_bits, general_bytes, [p.cluster for p in exam.general]
        ),
    }


def breakdown(
    exam: Exam, base: Answers, tuned: Answers, options: EvaluationOptions
) -> dict[str, list[dict[str, Any]]]:
    """The same measures by split, by language and, for gaps, by the kind of span."""
    parts: dict[str, list[dict[str, Any]]] = {}
    groups: dict[str, Callable[[Any], str]] = {
        "split": lambda item: item.split,
        "language": lambda item: item.language,
    }
    for name, key in groups.items():
        values = sorted({key(p) for p in exam.passages} | {key(gap) for gap in exam.gaps})
        parts[name] = [
            {"value": value, **_part(exam, base, tuned, options, key, value)} for value in values
        ]
    kinds = sorted({gap.kind for gap in exam.gaps})
    parts["kind"] = [
        {"value": kind, **_part(exam, base, tuned, options, lambda g: getattr(g, "kind", ""), kind)}
        for kind in kinds
    ]
    return parts


def _part(
    exam: Exam,
    base: Answers,
    tuned: Answers,
    options: EvaluationOptions,
    key: Callable[[Any], str],
    value: str,
) -> dict[str, Any]:
    """The measures of the passages and gaps for which `key` gives `value`."""
    texts = [i for i, passage in enumerate(exam.passages) if key(passage) == value]
    gaps = [i for i, gap in enumerate(exam.gaps) if key(gap) == value]
    part = Exam(
        [exam.passages[i] for i in texts],
        [],
        [exam.gaps[i] for i in gaps],
        [exam.fitted[i] for i in gaps],
        [exam.prompts[i] for i in gaps],
        exam.window,
    )
    sides = [
        Answers(
            bits=[side.bits[i] for i in texts],
            general_bits=[],
            texts=[side.texts[i] for i in gaps],
            exact=[side.exact[i] for i in gaps],
            similarity=[side.similarity[i] for i in gaps],
        )
        for side in (base, tuned)
    ]
    found = comparisons(part, sides[0], sides[1], options)
    return {
        "files": len({passage.cluster for passage in part.passages}),
        "bytes": sum(len(passage.text.encode()) for passage in part.passages),
        "prompts": len(part.gaps),
        **{name: asdict(c) for name, c in found.items() if c is not None},
    }
