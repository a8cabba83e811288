"""Search: trials run one after the other; the artifact says what became of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetune.artifacts import Artifact, run_stage, write_json
from codetune.errors import TrainingError
from codetune.progress import Progress, Task
from codetune.search.config import SearchOptions
from codetune.search.space import Parameter, named
from codetune.search.study import Study, Trial, require

__all__ = ["FailedError", "HopelessError", "Outcome", "Report", "require", "search"]

TRIALS, PICTURE = "trials.json", "search.png"
VERSION = 1  # raised when the same inputs give other trials
Report = Callable[[int, int, float], bool]  # step, of steps, validation loss; go on?


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its best validation loss, and facts for its record."""

    loss: float
    facts: Mapping[str, Any]


class HopelessError(Exception):
    """A trial was given up because its report said so."""


class FailedError(Exception):
    """A trial that cannot be run to its end with its options; the others may."""


# Runs one trial: the changed options by dotted key, and where to report each validation.
Attempt = Callable[[Mapping[str, Any], Report], Outcome]


def search(
    options: SearchOptions,
    parameters: tuple[Parameter, ...],
    attempt: Attempt,
    folder: Path,
    progress: Progress,
    *,
    given: tuple[Mapping[str, Any], Mapping[str, str]],
) -> Artifact:
    """Run the trials, or what is left of them; a finished search is returned as it is.

    `given` are the options and input digests that are the same in all trials: another search
    begins when they change. The first trial changes nothing (it gets an empty mapping), so the
    best one is never worse than the options as they stand. An interrupted trial goes on where
    its run does.

    Artifact: `trials.json` (options, validation losses and state of each trial), `journal.log`
    (Optuna's), `search.png`. Losses of all trials must be of one and the same validation set:
    that is the caller's to see to.

    Raises:
        MissingExtraError: Optuna is not installed.
        TrainingError: no trial could be run to its end.
    """
    require()
    config = {**given[0], "search": options.model_dump(mode="json"), "version": VERSION}
    return run_stage(
        "search",
        folder,
        config,
        given[1],
        lambda partial: _run(partial, options, parameters, attempt, progress),
        resumable=True,
    )


def _run(
    folder: Path,
    options: SearchOptions,
    parameters: tuple[Parameter, ...],
    attempt: Attempt,
    progress: Progress,
) -> Mapping[str, Any]:
    from codetune.search.picture import draw_search

    study = Study(folder, options, parameters)
    with progress.task("Searching", total=options.trials, unit="trials") as task:
        task.advance(len(study.records()), note=_best_words(study))
        while (trial := study.next()) is not None:
            _try(trial, attempt, progress)
            task.advance(1, note=_best_words(study))
            _say(study.records()[-1], task, progress)
    records = study.records()
    summary = _summary(records)
    write_json(folder / TRIALS, {"parameters": [one.key for one in parameters], "trials": records})
    draw_search(folder / PICTURE, records, parameters)
    return summary


def _try(trial: Trial, attempt: Attempt, progress: Progress) -> None:
    values = ", ".join(f"{key} {value:.3g}" for key, value in named(trial.params).items())
    progress.say(f"Trial {trial.number}: {values}" + (" (as given)." if not trial.number else "."))
    try:
        if trial.hopeless:
            raise HopelessError
        outcome = attempt(trial.params if trial.number else {}, trial.report)
    except HopelessError:
        trial.stop()
    except FailedError as error:
        trial.fail(str(error))
    else:
        trial.finish(outcome.loss, **outcome.facts)


def _say(record: Mapping[str, Any], task: Task, progress: Progress) -> None:
    number, loss = record["trial"], record["validation_loss"]
    words = {
        "finished": f"validation loss {loss or 0:.4f} nats per token",
        "pruned": f"stopped after {record['steps']} of {record['of_steps']} steps",
        "failed": f"failed: {record['reason']}",
    }
    progress.say(f"Trial {number}: {words[record['state']]} ({task.note}).")


def _best_words(study: Study) -> str:
    best = best_of(study.records())
    return f"best {best['validation_loss']:.4f}, trial {best['trial']}" if best else "none yet"


def best_of(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The finished trial with the lowest validation loss; the first of equal ones."""
    finished = [record for record in records if record["state"] == "finished"]
    return min(finished, key=lambda record: record["validation_loss"], default=None)


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    best = best_of(records)
    if best is None:
        raise TrainingError(
            f"None of the {len(records)} trials of the search ran to its end: "
            f"{records[0]['reason']}",
            advice="Run `codetune tune` without --search first: its own options fail, too.",
        )
    states = [record["state"] for record in records]
    return {
        "trials": len(records),
        "finished": states.count("finished"),
        "pruned": states.count("pruned"),
        "failed": states.count("failed"),
        "best": {key: best[key] for key in ("trial", "params", "validation_loss")},
        "as_given": records[0]["validation_loss"],
        "seconds": round(sum(record["seconds"] for record in records), 2),
    }
