"""Claim: `codetune --help` answers in under 0.3 s."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LIMIT = 0.3  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    runs = 5 if parser.parse_args().quick else 20

    def seconds(command: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    ours = [seconds([sys.executable, "-m", "codetune", "--help"]) for _ in range(runs)]
    python = [seconds([sys.executable, "-c", ""]) for _ in range(runs)]
    median, floor = statistics.median(ours), statistics.median(python)
    print("| command | median s | ratio to an empty Python |")
    print("|---|---|---|")
    print(f"| codetune --help | {median:.3f} | {median / floor:.1f} |")
    print(f"| python -c '' | {floor:.3f} | 1 |")
    return 0 if median < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
