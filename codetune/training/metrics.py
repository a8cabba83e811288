"""What a run writes about itself: metrics.jsonl (one line a step), training.log, loss.png."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from codetune.smoothing import smoothed

METRICS, LOG, CURVE = "metrics.jsonl", "training.log", "loss.png"
_END, _FEWEST_STEPS = 0.1, 3  # of a run's steps, that its first and last loss are means of
_ACCENT, _SECOND, _QUIET = "#2563eb", "#ea580c", "#64748b"


class Metrics:
    """Appends to metrics.jsonl; each line is whole before the next step begins.

    Lines are `{"kind": "train", "step", "epoch", "loss", "learning_rate", "grad_norm",
    "tokens", "tokens_per_second", "padding_share", "memory_bytes", "seconds"}`,
    `{"kind": "validation", "step", "loss", "best", "streams"}` (a loss for each stream) and
    `{"kind": "recovery", "step", "why", "what", …}`; losses are nats per token.
    """

    def __init__(self, run: Path, *, resumed_step: int | None) -> None:
        self.path = run / METRICS
        kept = [
            line
            for line in read_metrics(self.path)
            # Lines after the checkpoint will be written again; what was mended stays known.
            if line["kind"] == "recovery"
            or (resumed_step is not None and line["step"] <= resumed_step)
        ]
        self._counts = Counter(line["kind"] for line in kept)
        temporary = self.path.with_name(METRICS + ".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self.path)
        self._file = self.path.open("a")

    def count(self, kind: str) -> int:
        """How many lines of this kind there were when the file was opened."""
        return self._counts[kind]

    def write(self, **values: Any) -> None:
        """Append one line."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; the last one may have been cut off by a kill and is left out then."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def ends_of_loss(path: Path) -> dict[str, float]:
    """The training loss at a run's begin and end: means over its first and last tenth of steps.

    At least three steps each, or all there are: single steps hold different shares of replayed
    code, so that one of them can be higher than another which was trained on far less. A step
    that was taken again after a recovery counts as it was the last time. Nats per token; `path`
    is a metrics.jsonl with at least one step.
    """
    steps = {line["step"]: line["loss"] for line in read_metrics(path) if line["kind"] == "train"}
    losses = [steps[step] for step in sorted(steps)]
    count = max(_FEWEST_STEPS, round(len(losses) * _END))
    return {"first": fmean(losses[:count]), "last": fmean(losses[-count:])}


@contextmanager
def run_log(run: Path) -> Iterator[logging.Logger]:
    """A logger that writes to training.log only."""
    logger = logging.getLogger(f"codetune.training.{run}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = logging.FileHandler(run / LOG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield logger
    except BaseException:
        logger.error("stopped by %s: %s", *_raised())
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def peak_memory() -> int:
    """The process's highest resident memory since `reset_peak_memory`, in bytes."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    for line in _status():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def reset_peak_memory() -> None:
    """Forget earlier stages' peak, where the system lets us (Linux does)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is the whole process's: too high, never too low


def draw_curve(run: Path) -> Path:
    """Draw loss.png: training loss (faint, and smoothed) and validation loss over tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(run / METRICS)
    train = [line for line in lines if line["kind"] == "train"]
    validation = [line for line in lines if line["kind"] == "validation"]
    figure = Figure(figsize=(8, 4.5), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    total = max((line["tokens"] for line in train), default=0)
    unit, name = (1e6, "millions") if total >= 2e6 else (1e3, "thousands")
    seen = {line["step"]: line["tokens"] / unit for line in train} | {0: 0.0}
    x, y = [seen[line["step"]] for line in train], [line["loss"] for line in train]
    axes.plot(x, y, color=_ACCENT, alpha=0.25, linewidth=1)
    axes.plot(x, smoothed(y), color=_ACCENT, linewidth=2, label="training")
    scored = [line for line in validation if line["step"] in seen]
    if scored:
        at = [seen[line["step"]] for line in scored]
        losses = [line["loss"] for line in scored]
        axes.plot(at, losses, color=_SECOND, linewidth=2, marker="o", ms=4, label="validation")
        best = min(range(len(losses)), key=losses.__getitem__)
        axes.annotate(
            f"best {losses[best]:.3f}",
            (at[best], losses[best]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="right" if at[best] > 0.8 * max(at) else "center",
            color=_SECOND,
        )
    axes.set_xlabel(f"tokens trained on ({name})")
    axes.set_ylabel("loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_QUIET, alpha=0.2)
    axes.legend(frameon=False)
    figure.savefig(run / CURVE)
    return run / CURVE


def _status() -> list[str]:
    try:
        return Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return []


def _raised() -> tuple[str, str]:
    kind, value, _ = sys.exc_info()
    return (kind.__name__ if kind else "nothing"), str(value)
