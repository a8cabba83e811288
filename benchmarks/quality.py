"""Claim: what is in the default recipe helps, and the default is better for the user's own code.

Tunes the embedded base on the past of public repositories, scores it on what was written next,
and prints one row a variant: means over the repositories with 95 % intervals (Student's t over
repositories). All variants have the same budget of optimizer steps and answer the same held-out
prompts. Choose defaults on the `--development` repositories; the others are for the report only.

Every finished run is a line of `--out`; a re-run does only what is missing.

    python -m benchmarks.quality --mirror CLONES --out build/quality.jsonl
    python -m benchmarks.quality --out build/quality.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.repositories import REPOSITORIES

REPORTED = [name for name in REPOSITORIES if name != "grafana/loki"]
DEVELOPMENT = ["python/mypy", "netbox-community/netbox", "gohugoio/hugo", "denoland/std"]

_RANDOM = "dataset.span_mix={syntax: 0, line: 0, random: 1}"
_DEFAULT = "+ replay (the default)"
_BARE = ("dataset.header_rate=0", "dataset.replay_share=0")
# Each step of the first part adds one thing to the step before; the second part changes one
# thing of the default.
VARIANTS: dict[str, tuple[str, ...]] = {
    "next token only": ("dataset.use_fim=false", *_BARE),
    "+ FIM, random spans": (_RANDOM, *_BARE),
    "+ FIM, syntax-tree and line spans": _BARE,
    "+ repository header": ("dataset.replay_share=0",),
    _DEFAULT: (),
    "default, full instead of LoRA": ("training.method=full",),
    "default, replay learned as text": ("training.distillation=0",),
    "default, gaps weigh 1": ("training.gap_weight=1",),
    "default, rank 4": ("training.rank=4",),
    "default, rank 16": ("training.rank=16",),
    "default, a third of the steps": (),
}
_PROMPTS = ("dataset.heldout_fim", "evaluation.fim_prompts")
_FIGURES = {  # heading → field of the scorecard
    "bits per byte": "bits_per_byte",
    "FIM exact match": "fim_exact_match",
    "FIM edit similarity": "fim_edit_similarity",
    "general bits per byte": "general_bits_per_byte",
}
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom.
_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mirror", type=Path, help="folder with clones: OWNER+NAME/repo")
    parser.add_argument("--only", nargs="*", help=f"repositories; default: {REPORTED}")
    parser.add_argument("--development", action="store_true", help=f"these: {DEVELOPMENT}")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps of each run")
    parser.add_argument("--prompts", type=int, default=400, help="fill-in-the-middle prompts")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/quality.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print what --out holds")
    parser.add_argument("--quick", action="store_true", help="one small repository, few steps")
    parser.add_argument("tune", nargs="*", help="after --: options of codetune tune")
    arguments = parser.parse_args()
    names = arguments.only or (DEVELOPMENT if arguments.development else REPORTED)
    if arguments.quick:
        names, arguments.steps, arguments.prompts = ["DaveGamble/cJSON"], 10, 20
    results = read(arguments.out)
    if not arguments.table:
        for name in names:
            for variant in arguments.variants:
                if (name, variant, arguments.steps) not in results:
                    result = tune(name, variant, arguments)
                    append(arguments.out, result)
                    results[name, variant, arguments.steps] = result
    chosen = [result for (name, *_), result in results.items() if name in names]
    print(table(chosen) + "\n\n" + differences(chosen))
    return 0


def tune(name: str, variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of `codetune tune`, as the user would start it."""
    local = arguments.mirror and arguments.mirror / name.replace("/", "+") / "repo"
    steps = arguments.steps // 3 if variant.endswith("third of the steps") else arguments.steps
    options = [*VARIANTS[variant], f"training.max_steps={steps}", "training.epochs=100"]
    # As many have to be held out: exact match is a small count, and needs many prompts.
    options += [f"{name}={arguments.prompts}" for name in _PROMPTS]
    command = [sys.executable, "-m", "codetune", "tune"]
    command += [str(local or f"https://github.com/{name}"), "--json"]
    command += [part for option in options for part in ("--set", option)]
    start = time.perf_counter()
    done = subprocess.run([*command, *arguments.tune], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name}, {variant}: codetune tune ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    result |= {"repository": name, "variant": variant, "steps": arguments.steps}
    result["seconds"] = time.perf_counter() - start
    changes = ", ".join(f"{title} {relative(result, key):+.1%}" for title, key in _FIGURES.items())
    print(f"{name}, {variant}: {changes}", file=sys.stderr, flush=True)
    return result


def read(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["repository"], row["variant"], row["steps"]): row for row in rows}


def append(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def relative(result: dict[str, Any], key: str) -> float:
    """The tuned side's change, relative to the base; of a base at zero, the difference."""
    base, tuned = (float(result["scorecard"][side][key]["value"]) for side in ("base", "tuned"))
    return (tuned / base - 1) if base else tuned - base


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| variant | repositories | " + " | ".join(_FIGURES) + " |",
        "|---|--:|" + "---|" * len(_FIGURES),
    ]
    for variant in VARIANTS:
        rows = [result for result in results if result["variant"] == variant]
        if not rows:
            continue
        cells = [variant, str(len(rows))]
        for key in _FIGURES.values():
            # Exact match is a small count: the ratio of sums says more than a mean of ratios.
            cells.append(ratio_of_sums(rows, key) if "match" in key else mean_change(rows, key))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(results: list[dict[str, Any]]) -> str:
    """What each variant changes, in points of the relative change, paired by repository.

    Against the step before it in the first part, and against the default in the second.
    """
    by_variant: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        by_variant.setdefault(result["variant"], {})[result["repository"]] = result
    titles = [title for title in _FIGURES if "match" not in title]  # a count of a few
    lines = ["| from | to | " + " | ".join(titles) + " |", "|---|---|" + "---|" * len(titles)]
    before = ""
    for variant in (one for one in VARIANTS if one in by_variant):
        pairs = [
            (by_variant[before][name], result)
            for name, result in by_variant[variant].items()
            if before and name in by_variant[before]
        ]
        if len(pairs) > 1:
            cells = [points(pairs, _FIGURES[title]) for title in titles]
            lines.append(f"| {before} | {variant} | {' | '.join(cells)} |")
        before = before if before == _DEFAULT else variant
    return "\n".join(lines)


def points(pairs: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> str:
    """Mean difference of the relative changes in percentage points, with its interval."""
    values = [100 * (relative(after, key) - relative(before, key)) for before, after in pairs]
    mean = sum(values) / len(values)
    half = _half_width(values, mean)
    return f"{mean:+.1f} ({mean - half:+.1f} … {mean + half:+.1f})"


def mean_change(rows: list[dict[str, Any]], key: str) -> str:
    """Mean of the relative changes, and its interval over repositories."""
    changes = [relative(row, key) for row in rows]
    mean = sum(changes) / len(changes)
    if len(changes) < 2:
        return f"{mean:+.1%}"
    half = _half_width(changes, mean)
    return f"{mean:+.1%} ({mean - half:+.1%} … {mean + half:+.1%})"


def _half_width(values: list[float], mean: float) -> float:
    freedom = len(values) - 1
    variance = sum((value - mean) ** 2 for value in values) / freedom
    return _T[min(freedom, len(_T)) - 1] * math.sqrt(variance / len(values))


def ratio_of_sums(rows: Iterable[dict[str, Any]], key: str) -> str:
    """Both sides' means over the repositories, and how much more the tuned side has."""
    cards = [row["scorecard"] for row in rows]
    base, tuned = (sum(c[side][key]["value"] for c in cards) for side in ("base", "tuned"))
    gain = f" ({tuned / base - 1:+.0%})" if base else ""
    return f"{base / len(cards):.3f} → {tuned / len(cards):.3f}{gain}"


if __name__ == "__main__":
    sys.exit(main())
