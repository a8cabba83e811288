"""The gate: a model that is not proved better stays a candidate."""

from __future__ import annotations

from dataclasses import dataclass

from codetune.records import Interval

# With fewer files the bootstrap promises more than it holds: in simulations its 95 % intervals
# covered the truth in 74 % of cases with three files, in 89 % with five.
FEWEST_FILES = 5


@dataclass(frozen=True)
class Verdict:
    """Promoted or not, and why, in sentences for a reader who is no statistician."""

    promoted: bool
    reasons: tuple[str, ...]


def judge(
    *,
    base: Interval,
    tuned: Interval,
    change: Interval,
    general_base: Interval | None,
    general_tuned: Interval | None,
    fim_change: Interval | None,
    files: int,
    forgetting_limit: float,
) -> Verdict:
    """Decide on held-out bits per byte, general bits per byte and the answers' similarity.

    A model is promoted when held-out bits per byte fell by more than the paired interval,
    general bits per byte rose by at most `forgetting_limit`, and its fill-in-the-middle answers
    did not get worse beyond their interval.
    """
    checks = (
        _better(base, tuned, change, files),
        _remembers(general_base, general_tuned, forgetting_limit),
        _answers(fim_change),
    )
    return Verdict(
        promoted=all(passed for passed, _ in checks),
        reasons=tuple(reason for _, reason in checks if reason),
    )


def _better(base: Interval, tuned: Interval, change: Interval, files: int) -> tuple[bool, str]:
    figures = (
        f"{base.value:.3f} → {tuned.value:.3f} bits per byte, "
        f"a change of {change.value:+.3f} (95 % interval {change.low:+.3f} to {change.high:+.3f})"
    )
    if files < FEWEST_FILES:
        return False, (
            f"Only {files} held-out file{'' if files == 1 else 's'} could be scored, too few to "
            f"tell skill from luck: {figures}."
        )
    if change.high < 0:
        return True, f"Better on held-out code: {figures}."
    if change.low > 0:
        return False, f"Worse on held-out code: {figures}."
    return False, f"Not proved better on held-out code, the interval includes zero: {figures}."


def _remembers(base: Interval | None, tuned: Interval | None, limit: float) -> tuple[bool, str]:
    if base is None or tuned is None:
        return False, "Forgetting was not measured, so the model cannot be promoted."
    worse = tuned.value / base.value - 1
    figures = f"{base.value:.3f} → {tuned.value:.3f} bits per byte ({100 * worse:+.1f} %"
    if tuned.value > base.value * (1 + limit):
        return False, f"Forgot too much general code: {figures}, limit {100 * limit:+.1f} %)."
    return True, f"Kept its general knowledge: {figures}, limit {100 * limit:+.1f} %)."


def _answers(change: Interval | None) -> tuple[bool, str]:
    if change is None:
        return True, "Fill-in-the-middle answers were not measured."
    interval = f"95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}"
    figures = f"{100 * change.value:+.1f} points of edit similarity ({interval})"
    if change.high < 0:
        return False, f"Fill-in-the-middle answers got worse: {figures}."
    if change.low > 0:
        return True, f"Fill-in-the-middle answers got closer to the truth: {figures}."
    return True, f"Fill-in-the-middle answers show no clear difference: {figures}."
