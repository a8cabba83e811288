"""Evaluate: base against tuned on code that neither was trained on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import Artifact, run_stage, write_json
from codetune.errors import ArtifactError
from codetune.evaluation.completion import Answers, Exam, answer, prepare, scored_window
from codetune.evaluation.config import EvaluationOptions
from codetune.evaluation.forgetting import general_digest, general_passages
from codetune.evaluation.samples import (
    HELD_OUT_FIM,
    HELD_OUT_TEXT,
    held_out_gaps,
    held_out_passages,
)
from codetune.evaluation.scorecard import breakdown, make_scorecard
from codetune.models.architecture import is_seq2seq, model_window
from codetune.models.footprint import bound_kernels, give_back
from codetune.models.load import (
    BaseModel,
    device_and_dtype,
    load_adapter,
    load_model,
    read_json,
)
from codetune.models.prompts import Renderer
from codetune.progress import Progress

if TYPE_CHECKING:
    import torch

_VERSION = 2  # of the scores; raised when the same inputs give others
# Options that change what is measured, not how it is judged: the key of cached scores.
_MEASURED = (
    "text_bytes",
    "text_bytes_per_region",
    "fim_prompts",
    "fim_new_tokens",
    "general_bytes",
    "window",
    "seed",
)


def evaluate(
    dataset: Artifact,
    base: BaseModel,
    run: Artifact,
    options: EvaluationOptions,
    folder: Path,
    progress: Progress,
) -> Artifact:
    """Score both sides on the same samples and let the gate decide.

    An adapter that was trained on top of another one is compared with that one, which its user
    would have without it; the plain base is what the lower adapter's own scorecard tells of.

    A side's scores are an artifact of their own: the base's are shared by every run on the same
    dataset, and another forgetting limit or number of bootstrap draws costs no model time.

    Raises:
        EvaluationError: nothing is held out, or the dataset cannot be read.
        ModelError: a model cannot be loaded.
    """
    bound_kernels()
    bench = _Bench(dataset, base, run, options, progress)
    inputs = {"dataset": dataset.digest, "base": base.digest, "run": run.digest}
    if base.parent is not None:
        inputs["parent"] = base.parent.digest
    if options.general_bytes:
        inputs["general"] = general_digest()

    def make(partial: Path) -> Mapping[str, Any]:
        sides = {
            "base": bench.scores("base", folder / "scores", inputs | {"run": ""}),
            "tuned": bench.scores("tuned", folder / "scores", inputs),
        }
        reference = base.parent.id if base.parent else ""
        scorecard = make_scorecard(bench.exam, sides["base"], sides["tuned"], options, reference)
        write_json(partial / "scorecard.json", asdict(scorecard))
        _write_completions(partial / "completions.jsonl", bench.exam, sides)
        return {
            "scorecard": asdict(scorecard),
            "breakdown": breakdown(bench.exam, sides["base"], sides["tuned"], options),
            "seconds": bench.seconds,
            "window": bench.exam.window,
            "completions": len(bench.exam.gaps),
        }

    return run_stage("evaluation", folder, options.model_dump() | _kind(), inputs, make)


def _kind() -> dict[str, Any]:
    """What scores depend on beside options and inputs."""
    return {"precision": str(device_and_dtype()[1]), "version": _VERSION}


class _Bench:
    """The exam and the models of one evaluation, each made when it is first needed."""

    def __init__(
        self,
        dataset: Artifact,
        base: BaseModel,
        run: Artifact,
        options: EvaluationOptions,
        progress: Progress,
    ) -> None:
        self.dataset, self.base, self.run = dataset, base, run
        self.options, self.progress = options, progress
        self.seconds: dict[str, float] = {}
        self._exam: Exam | None = None
        self._renderer: Renderer | None = None
        self._model: torch.nn.Module | None = None

    @property
    def renderer(self) -> Renderer:
        if self._renderer is None:
            self._renderer = Renderer.from_folder(self.base.path)
        return self._renderer

    @property
    def exam(self) -> Exam:
        if self._exam is None:
            self._exam = self._make_exam()
        return self._exam

    def _make_exam(self) -> Exam:
        options = self.options
        config = read_json(self.base.path / "config.json")
        window = scored_window(model_window(config), options)
        passages = held_out_passages(
            self.dataset / HELD_OUT_TEXT,
            limit=options.text_bytes,
            per_region=options.text_bytes_per_region,
            window=window,
            seed=options.seed,
        )
        gaps = []
        # An encoder's gap would be asked in words that it was never trained on.
        whole = is_seq2seq(config)
        if self.renderer.fim is not None and options.fim_prompts and not whole:
            gaps = held_out_gaps(
                self.dataset / HELD_OUT_FIM, limit=options.fim_prompts, seed=options.seed
            )
        return prepare(
            self.renderer,
            passages,
            general_passages(options.general_bytes),
            gaps,
            window=window,
            new_tokens=options.fim_new_tokens,
        )

    def scores(self, side: str, folder: Path, inputs: Mapping[str, str]) -> Answers:
        """One side's answers, from its artifact if they were given before."""

        def make(partial: Path) -> Mapping[str, Any]:
            start = time.monotonic()
            give_back()  # what training, or the other side, has left
            model = self._lower_model() if side == "base" else self._tuned_model()
            answers = answer(model, self.renderer, self.exam, side, self.progress)
            write_json(partial / "answers.json", answers.as_json())
            return {"seconds": round(time.monotonic() - start, 3)}

        config = {name: getattr(self.options, name) for name in _MEASURED}
        artifact = run_stage("scores", folder, config | _kind(), inputs, make)
        self.seconds[side] = artifact.summary["seconds"]
        try:
            return Answers(**json.loads((artifact / "answers.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ArtifactError(
                f"{artifact.path} is damaged: {error}.", advice="Delete the folder and run again."
            ) from error

    def _base_model(self) -> torch.nn.Module:
        if self._model is None:
            self._model = load_model(self.base.path)
        return self._model

    def _lower_model(self) -> torch.nn.Module:
        """What the tuned model stands on: the base, or the base with the parent's adapter."""
        parent = self.base.parent
        return self._base_model() if parent is None else self._with_adapter(parent.path)

    def _tuned_model(self) -> torch.nn.Module:
        """The tuned model; it takes the base's place in memory."""
        folder = self.run / "model"
        if (folder / "adapter_config.json").exists():
            return self._with_adapter(folder)
        self._model = None
        return load_model(folder)

    def _with_adapter(self, folder: Path) -> torch.nn.Module:
        """The base with an adapter; the plain base is given up."""
        import torch

        tuned: Any = load_adapter(self._base_model(), folder, base=self.base)
        self._model = None
        # In float32 a merged adapter's logits agree to 1e-6, in less time. In bf16 merging would
        # round the adapter away (0.3 % of the bits, measured), so there it stays beside the base.
        if next(tuned.parameters()).dtype == torch.float32:
            return tuned.merge_and_unload()  # type: ignore[no-any-return]
        return tuned  # type: ignore[no-any-return]


def _write_completions(file: Path, exam: Exam, sides: Mapping[str, Answers]) -> None:
    """Every prompt with its truth and both answers, one JSON object a line."""
    with file.open("w", encoding="utf-8") as lines:
        for number, (gap, parts) in enumerate(zip(exam.gaps, exam.fitted, strict=True)):
            row: dict[str, Any] = {
                "id": gap.id,
                "repo": gap.repo,
                "path": gap.path,
                "language": gap.language,
                "split": gap.split,
                "kind": gap.kind,
                "prefix": parts.prefix,
                "suffix": parts.suffix,
                "truth": gap.middle,
            }
            for side, answers in sides.items():
                row[side] = {
                    "text": answers.texts[number],
                    "exact": answers.exact[number],
                    "similarity": answers.similarity[number],
                }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
