"""Instructions from a repository: `sft.jsonl` and, for people, `sft_readable.json`.

    python generate_training_data.py PATH-OR-URL [--base nano]

Every answer is text of the repository itself: its documentation, its tests, its commits. What is
made here is what `train_adapter.sh` trains on; nothing is made twice.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from codetune.pipeline import Journey
from codetune.progress import Progress
from codetune.project import load_project

HERE = Path(__file__).parent


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "source", help="a git repository (a path or a URL), a folder, an archive"
    )
    arguments.add_argument("--base", help="instead of the base_model of axolotl.yaml")
    arguments.add_argument("--output", type=Path, default=HERE, help="where the files go")
    given = arguments.parse_args()

    # 1. The same options as for training, so that the data is the data that is trained on.
    options = {"base": given.base, "dataset.use_sft": True}
    config = load_project(HERE / "axolotl.yaml", options)

    # 2. Read the repository, clean it, hold some of it out, make the examples.
    dataset = Journey(given.source, config, Progress()).build()

    # 3. Put the instructions where they can be read and changed.
    given.output.mkdir(parents=True, exist_ok=True)
    for name in ("sft.jsonl", "sft_readable.json"):
        shutil.copyfile(dataset / name, given.output / name)
    made = dataset.summary["instructions"]
    for kind, number in made.items():
        print(f"{kind:<10}{number:>8,}")
    print(f"{'together':<10}{sum(made.values()):>8,}   {given.output / 'sft.jsonl'}")


if __name__ == "__main__":
    main()
