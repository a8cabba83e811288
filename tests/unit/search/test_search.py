"""A search: options as given first, hopeless trials stopped, and the same after any interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact
from codetune.errors import TrainingError
from codetune.search.search import FailedError, Outcome, Report
from tests.unit.search.trial_runs import GIVEN, STEPS, Runs, searched


def trials_of(found: Artifact) -> list[dict[str, Any]]:
    """The records, without the times."""
    trials: list[dict[str, Any]] = json.loads((found / "trials.json").read_text())["trials"]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in trials]


def test_the_options_as_given_come_first_and_the_best_trial_wins(tmp_path: Path) -> None:
    runs = Runs()
    found = searched(tmp_path, runs, trials=10)
    trials = trials_of(found)
    assert runs.params[0] == {}
    assert trials[0]["params"] == GIVEN
    assert trials[0]["state"] == "finished"
    finished = [one for one in trials if one["state"] == "finished"]
    best = min(finished, key=lambda one: one["validation_loss"])
    assert found.summary["best"]["trial"] == best["trial"] > 0
    assert found.summary["best"]["validation_loss"] < found.summary["as_given"]
    assert (found / "search.png").read_bytes().startswith(b"\x89PNG")


def test_hopeless_trials_end_at_a_quarter_or_at_half_of_their_steps(tmp_path: Path) -> None:
    runs = Runs()
    found = searched(tmp_path, runs, trials=10)
    pruned = [one for one in trials_of(found) if one["state"] == "pruned"]
    assert len(pruned) == found.summary["pruned"] >= 3
    # The first validation at or after a quarter of 40 steps is that of step 12.
    assert {one["steps"] for one in pruned} <= {12, 20}
    assert all(one["curve"][-1]["step"] == one["steps"] for one in pruned)
    assert runs.validations < 10 * (STEPS // 4 + 1)
    everything = Runs()
    assert searched(tmp_path, everything, trials=10, comparisons=0).summary["pruned"] == 0
    assert everything.validations == 10 * (STEPS // 4 + 1)


def test_the_best_loss_in_a_run_is_of_a_model_that_took_a_step(tmp_path: Path) -> None:
    def worse_than_its_base(params: Mapping[str, Any], report: Report) -> Outcome:
        for step, loss in ((0, 2.0), (4, 3.0), (STEPS, 2.5)):
            report(step, STEPS, loss)
        return Outcome(2.5, {})

    found = searched(tmp_path, worse_than_its_base, trials=2, comparisons=0)
    assert [one["best_in_run"] for one in trials_of(found)] == [2.5, 2.5]
    assert trials_of(found)[0]["curve"][0]["loss"] == 2.0


def test_an_interrupted_search_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", Runs())
    for stop_at in ((0, 8), (1, 8), (0, 0)):
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "parts", Runs(stop_at=stop_at))
    (partial,) = (tmp_path / "parts").glob(".*.partial")
    # What a kill in the middle of writing leaves behind.
    with (partial / "journal.log").open("a") as journal:
        journal.write('{"op_code": 8, "worker')
    (partial / "journal.log.lock").symlink_to("journal.log")
    found = searched(tmp_path / "parts", Runs())
    assert trials_of(found) == trials_of(whole)


def test_a_finished_search_is_not_run_again(tmp_path: Path) -> None:
    first = searched(tmp_path, Runs())
    runs = Runs()
    assert searched(tmp_path, runs) == first
    assert runs.params == []
    assert searched(tmp_path, runs, seed=1).digest != first.digest


def test_more_trials_begin_with_the_same_ones(tmp_path: Path) -> None:
    few, many = searched(tmp_path, Runs(), trials=4), searched(tmp_path, Runs(), trials=6)
    assert trials_of(many)[:4] == trials_of(few)


def test_a_trial_that_was_found_hopeless_before_a_kill_is_not_run_again(tmp_path: Path) -> None:
    class Killed(Runs):
        def __call__(self, params: Mapping[str, Any], report: Report) -> Outcome:
            try:
                return super().__call__(params, report)
            except Exception as error:
                raise KeyboardInterrupt from error  # before anybody could note it

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, Killed())
    runs = Runs()
    found = searched(tmp_path, runs)
    first = next(one for one in trials_of(found) if one["state"] == "pruned")
    assert len(runs.params) == 6 - 1 - first["trial"]


def test_failed_trials_are_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    class Failing(Runs):
        def __call__(self, params: Mapping[str, Any], report: Report) -> Outcome:
            if params.get("training.rank") == 64:
                raise FailedError("It does not fit.")
            return super().__call__(params, report)

    found = searched(tmp_path, Failing(), trials=8, rank=(64,))
    failed = [one for one in trials_of(found) if one["state"] == "failed"]
    assert found.summary["failed"] == len(failed) > 0
    assert {one["reason"] for one in failed} == {"It does not fit."}
    assert {one["validation_loss"] for one in failed} == {None}


def test_a_search_without_a_finished_trial_says_why(tmp_path: Path) -> None:
    def attempt(params: Mapping[str, Any], report: Report) -> Outcome:
        raise FailedError("The loss is not finite.")

    with pytest.raises(TrainingError, match=r"None of the 2 trials .* The loss is not finite"):
        searched(tmp_path, attempt, trials=2)
