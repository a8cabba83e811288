"""Optuna's part: which options come next, which trial is hopeless, and the journal of it all.

Options come from a tree-structured Parzen estimator (Bergstra et al. 2011), seeded anew for each
trial, so that a search that was interrupted goes on as it would have. Asynchronous successive
halving (ASHA, arXiv 1810.05934) stops trials. Its resource is the share of a trial's own steps,
not the steps: at a quarter of their schedules two trials are equally far from where their
learning rates end, whatever number of epochs they have.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import digest_of
from codetune.errors import MissingExtraError
from codetune.search.config import SearchOptions
from codetune.search.space import Parameter

if TYPE_CHECKING:
    import optuna

JOURNAL, NAME = "journal.log", "codetune"
WHOLE = 10_000  # what a trial's whole run is in the pruner's unit


def require() -> None:
    """Raises MissingExtraError when Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("A search (--search)", "search") from error


class Study:
    """The trials of one search, kept in a folder that one process at a time may use."""

    def __init__(
        self, folder: Path, options: SearchOptions, parameters: tuple[Parameter, ...]
    ) -> None:
        import optuna

        self.options, self.parameters = options, parameters
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            storage=_storage(folder / JOURNAL),
            study_name=NAME,
            direction="minimize",
            load_if_exists=True,
            pruner=_pruner(options),
        )
        if not self._trials():
            self._study.enqueue_trial({one.key: one.given for one in parameters})

    def next(self) -> Trial | None:
        """The trial that was interrupted, else a new one; None when there have been enough."""
        import optuna

        states = [trial.state for trial in self._trials()]
        running = optuna.trial.TrialState.RUNNING in states
        kept = states.index(optuna.trial.TrialState.RUNNING) if running else len(states)
        number = kept - (optuna.trial.TrialState.WAITING in states)  # the first, before its turn
        if number >= self.options.trials:
            return None
        self._study.sampler = self._sampler(number)
        if running:
            storage = self._study._storage
            study = storage.get_study_id_from_name(NAME)
            found = storage.get_trial_id_from_study_id_trial_number(study, number)
            trial = optuna.trial.Trial(self._study, found)
        else:
            trial = self._study.ask()
        return Trial(trial, self._params(trial), self._study, self.options)

    def records(self) -> list[dict[str, Any]]:
        """What became of every trial that has ended, as plain JSON."""
        return [_record(trial) for trial in self._trials() if trial.state.is_finished()]

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        trials: list[optuna.trial.FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def _params(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """The values to try; those of the first trial are the given ones."""
        found: dict[str, Any] = {}
        for one in self.parameters:
            if one.bounds is not None:
                found[one.key] = trial.suggest_float(one.key, *one.bounds, log=True)
            else:
                found[one.key] = trial.suggest_categorical(one.key, one.choices)
        return found

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        import optuna

        return optuna.samplers.TPESampler(
            seed=int(digest_of([self.options.seed, number])[:8], 16),
            n_startup_trials=1 + self.options.startup,
        )


@dataclass
class Trial:
    """One trial under way."""

    trial: optuna.trial.Trial
    params: Mapping[str, Any]
    study: optuna.study.Study
    options: SearchOptions

    def __post_init__(self) -> None:
        self.number = self.trial.number
        self._since = time.monotonic()

    def report(self, step: int, steps: int, loss: float) -> bool:
        """A validation after `step` of `steps`: whether the trial is worth going on with.

        It is not if others were better at this share of their steps. A run that goes on from a
        checkpoint comes by some validations again; they count once.
        """
        place = min(WHOLE, WHOLE * step // max(1, steps))
        if place not in self._seen():
            self.trial.report(loss, place)
            # At the end there is nothing left to save.
            hopeless = 0 < step < steps and self.trial.should_prune()
            self._note(steps=steps, steps_done=step, hopeless=hopeless)
        return not self.hopeless

    @property
    def hopeless(self) -> bool:
        """Whether that was found out, if only before the process was killed."""
        return bool(self.trial.user_attrs.get("hopeless", False))

    def finish(self, loss: float, **facts: Any) -> None:
        """It ran to its end; `facts` go into its record."""
        self._note(**facts)
        self.study.tell(self.number, loss)

    def stop(self) -> None:
        """It was hopeless."""
        from optuna.trial import TrialState

        self._note()
        # With its last loss as the value: the sampler learns from it, too.
        self.study.tell(self.number, state=TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        """It could not be run to its end with its options."""
        from optuna.trial import TrialState

        self._note(reason=reason)
        self.study.tell(self.number, state=TrialState.FAIL)

    def _seen(self) -> Mapping[int, float]:
        found: Mapping[int, float] = self.study.get_trials(deepcopy=False)[
            self.number
        ].intermediate_values
        return found

    def _note(self, **facts: Any) -> None:
        """Keep facts, and the seconds that this trial has taken in all processes so far."""
        now = time.monotonic()
        before = self.trial.user_attrs.get("seconds", 0.0)
        self._since, spent = now, now - self._since
        for name, value in {**facts, "seconds": round(before + spent, 2)}.items():
            self.trial.set_user_attr(name, value)


def _record(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    from optuna.trial import TrialState

    facts = trial.user_attrs
    steps = int(facts.get("steps", 0))
    curve = [
        {"step": round(place * steps / WHOLE), "share": place / WHOLE, "loss": loss}
        for place, loss in sorted(trial.intermediate_values.items())
    ]
    names = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}
    # Before the first step it is the base that is scored, in every trial.
    losses = [point["loss"] for point in curve if point["share"]]
    return {
        "trial": trial.number,
        "state": names.get(trial.state, "failed"),
        "params": dict(trial.params),
        # Of the result, which only a run that came to its end has; those in the run are of
        # models in the making.
        "validation_loss": trial.value if trial.state == TrialState.COMPLETE else None,
        "best_in_run": min(losses, default=None),
        "steps": int(facts.get("steps_done", 0)),
        "of_steps": steps,
        "curve": curve,
        "seconds": facts.get("seconds", 0.0),
        "reason": facts.get("reason", ""),
        "run": facts.get("run", ""),
        "dataset": facts.get("dataset", ""),
    }


def _pruner(options: SearchOptions) -> optuna.pruners.BasePruner:
    import optuna

    if not options.comparisons:
        return optuna.pruners.NopPruner()
    first = -(-WHOLE // options.reduction**options.comparisons)  # rounded up: the last is the end
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=first, reduction_factor=options.reduction
    )


def _storage(journal: Path) -> optuna.storages.BaseStorage:
    """The journal, without what a kill left behind: half a line, a lock.

    The folder is this process's alone, so nobody else can hold the lock.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    for remains in journal.parent.glob(f"{journal.name}.lock*"):
        remains.unlink()
    if journal.exists():
        with journal.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(journal)))
