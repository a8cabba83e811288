"""Run every benchmark and print one Markdown table a claim.

Each script is a process of its own, so that one's memory is not another's. `--quick` runs
smaller sizes, to see that everything works.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

SCRIPTS = ["startup", "data", "training", "serving", "serving_team", "api"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", default=SCRIPTS, help=f"default: {SCRIPTS}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    arguments = parser.parse_args()
    failed = []
    for script in arguments.scripts:
        start = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{script}"]
        command += ["--quick"] if arguments.quick else []
        print(f"\n## {script}\n", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(script)
        print(f"\n({script}: {time.perf_counter() - start:.0f} s)", flush=True)
    if failed:
        print(f"\nmissed or failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
