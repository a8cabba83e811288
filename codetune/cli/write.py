"""`codetune data write`: a built dataset's examples as a file for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codetune.dataset.formats import LayoutName

_FORMATS = ["text", "messages", "alpaca", "sharegpt", "prompt-completion"]


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--stream", default="ntp", show_default=True, help="ntp, fim, sft, replay, or a set's name."
)
@click.option("--format", "layout", type=click.Choice(_FORMATS), default="text", show_default=True,
              help="The fields of a row; text for ntp, another one for conversations.")  # fmt: skip
def write(dataset: Path, file: Path, stream: str, layout: LayoutName) -> None:
    """Write the examples of DATASET (a built one's folder) to FILE, for other trainers.

    FILE's suffix says what it is: .jsonl, .json, .csv or .parquet.

    \b
    Examples:
      codetune build . --data ntp --json | jq -r .artifact
      codetune data write ~/.codetune/projects/…/datasets/… data/train.jsonl
      codetune data write FOLDER data/chats.jsonl --stream sft --format messages
    """
    from codetune.dataset.formats import write_set
    from codetune.dataset.inspection import examples_of

    count = write_set(file, examples_of(dataset, stream), layout)
    click.echo(f"{count} examples written to {file}")
