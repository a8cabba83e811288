"""Claim: tuned on a repository's past, the model is better on what was written next.

Runs `codetune tune` on public repositories of different kinds and prints one table. None of
them is in the embedded model's training data. `--mirror FOLDER` reads clones that are already
there as FOLDER/OWNER+NAME/repo; otherwise they are fetched. Further arguments go to
`codetune tune` unchanged:

    python -m benchmarks.repositories --only simonw/datasette -- --method full
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Repository → the commit that was read, so that the table can be repeated.
REPOSITORIES = {
    "simonw/datasette": "main",
    "gin-gonic/gin": "master",
    "colinhacks/zod": "main",
    "BurntSushi/ripgrep": "master",
    "DaveGamble/cJSON": "master",
    "grafana/loki": "main",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mirror", type=Path, help="folder with clones: OWNER+NAME/repo")
    parser.add_argument("--only", nargs="*", default=list(REPOSITORIES), help="which ones")
    parser.add_argument("--out", type=Path, help="write the full results as JSON lines here")
    parser.add_argument("--quick", action="store_true", help="only the smallest repository")
    parser.add_argument("tune", nargs="*", help="after --: options of codetune tune")
    arguments = parser.parse_args()
    names = ["DaveGamble/cJSON"] if arguments.quick else arguments.only
    print(HEADER, flush=True)
    failed = 0
    for name in names:
        local = arguments.mirror and arguments.mirror / name.replace("/", "+") / "repo"
        source = str(local or f"https://github.com/{name}")
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "codetune", "tune", source, "--json", *arguments.tune],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"| {name} | failed with exit code {done.returncode} |", flush=True)
            failed += 1
            continue
        result = json.loads(done.stdout)
        result["repository"], result["seconds"] = name, time.perf_counter() - start
        print(row(result), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
    return 1 if failed else 0


HEADER = """\
| repository | files kept/seen | tokens trained | bits per byte, base → tuned | change (95 %) \
| FIM exact match | FIM edit similarity | general bits per byte | promoted |
|---|---|---|---|---|---|---|---|---|"""


def row(result: dict[str, Any]) -> str:
    card, corpus = result["scorecard"], result["corpus"]
    base, tuned = card["base"], card["tuned"]
    change = card["change"]["bits_per_byte"]
    reference = base["bits_per_byte"]["value"]
    cells = [
        result["repository"],
        f"{corpus['kept']:,}/{corpus['files']:,}",
        f"{result['training']['tokens']:,}",
        pair(base, tuned, "bits_per_byte"),
        f"{change['value'] / reference:+.1%} "
        f"({change['low'] / reference:+.1%} … {change['high'] / reference:+.1%})",
        pair(base, tuned, "fim_exact_match"),
        pair(base, tuned, "fim_edit_similarity"),
        f"{pair(base, tuned, 'general_bits_per_byte')} "
        f"({ratio(base, tuned, 'general_bits_per_byte'):+.1%})",
        "yes" if result["promoted"] else "no",
    ]
    return "| " + " | ".join(cells) + " |"


def pair(base: dict[str, Any], tuned: dict[str, Any], field: str) -> str:
    return f"{base[field]['value']:.3f} → {tuned[field]['value']:.3f}"


def ratio(base: dict[str, Any], tuned: dict[str, Any], field: str) -> float:
    return tuned[field]["value"] / base[field]["value"] - 1


if __name__ == "__main__":
    sys.exit(main())
