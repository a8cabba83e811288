"""What the report says of a search: a table of its trials, its picture, and its best options."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from codetune.artifacts import Artifact
from codetune.errors import EvaluationError
from codetune.evaluation.words import count, duration

PICTURE, TRIALS = "search.png", "trials.json"
_STATES = {"finished": "finished", "pruned": "stopped early", "failed": "failed"}


def search_content(search: Artifact | None) -> dict[str, Any] | None:
    """What the templates show of a finished search; None without one.

    Raises:
        EvaluationError: its folder is damaged.
    """
    if search is None:
        return None
    try:
        found = json.loads((search / TRIALS).read_text())
        picture = base64.b64encode((search / PICTURE).read_bytes()).decode()
        keys, trials = found["parameters"], found["trials"]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(
            f"The search in {search.path} cannot be read: {error}.",
            advice="Delete this folder and search again: finished runs are kept.",
        ) from error
    best = search.summary["best"]
    return {
        "sentence": _sentence(search.summary),
        "columns": [_short(key) for key in keys],
        "rows": [_row(trial, keys, best["trial"]) for trial in trials],
        "picture": picture,
        "settings": _settings(best),
    }


def _settings(best: Mapping[str, Any]) -> str:
    """What turns the options of the search (see `options_yaml`) into those of its best trial.

    The first trial changed nothing: its parameters are those that the options stand for.
    """
    values = {"search.trials": 0} | (best["params"] if best["trial"] else {})
    return " ".join(f"--set {key}={value!r}" for key, value in values.items())


def _sentence(summary: Mapping[str, Any]) -> str:
    best, given = summary["best"], summary["as_given"]
    stopped = summary["pruned"]
    words = f"Of {count(summary['trials'])} trials, {count(stopped)} "
    words += "was stopped early" if stopped == 1 else "were stopped early"
    if summary["failed"]:
        words += f" and {count(summary['failed'])} failed"
    words += f" ({duration(summary['seconds'])} in all). "
    if not best["trial"]:
        return f"{words}None was better than the options as given."
    words += f"Trial {best['trial']} was the best: {best['validation_loss']:.4f} nats per token"
    if given is None:
        return f"{words}."
    return f"{words} of the validation text; the options as given have {given:.4f}."


def _row(trial: Mapping[str, Any], keys: list[str], best: int) -> dict[str, Any]:
    return {
        "trial": trial["trial"],
        "state": _STATES[trial["state"]],
        "best": trial["trial"] == best,
        "values": [_figure(trial["params"].get(key)) for key in keys],
        "loss": _loss(trial["validation_loss"]),
        "in_run": _loss(trial["best_in_run"]),
        "steps": f"{count(trial['steps'])} of {count(trial['of_steps'])}",
        "time": duration(trial["seconds"]),
        "reason": trial["reason"],
    }


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}"


def _short(key: str) -> str:
    return key.partition(".")[2].replace("_", " ").replace(".", " ").replace("fim", "FIM")
