"""`codetune data write`: a built dataset's examples as a file for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codetune.dataset.formats import LayoutName
    from codetune.records import Example

_FORMATS = ["text", "messages", "alpaca", "sharegpt", "prompt-completion"]


@click.command(short_help="Write the examples to a file, for other trainers.")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--stream", default="ntp", show_default=True, help="ntp, sft, replay, or a set's name."
)
@click.option("--format", "layout", type=click.Choice(_FORMATS), default="text", show_default=True,
              help="The fields of a row; text for ntp, another one for conversations.")  # fmt: skip
def write(dataset: Path, file: Path, stream: str, layout: LayoutName) -> None:
    """Write the examples of DATASET (a built one's folder) to FILE, for other trainers.

    FILE's suffix says what it is: .jsonl, .json, .csv or .parquet. Replayed general code is the
    stream `replay`. Fill-in-the-middle examples are left out: no other tool reads them.

    \b
    Examples:
      codetune build . --data ntp --json | jq -r .artifact
      codetune data write ~/.codetune/projects/…/datasets/… data/train.jsonl
      codetune data write FOLDER data/chats.jsonl --stream sft --format messages
    """
    from codetune.dataset.formats import write_set
    from codetune.dataset.inspection import examples_of

    left_out = 0

    def whole() -> Iterator[Example]:
        nonlocal left_out
        for example in examples_of(dataset, stream):
            if example.fim is None or stream == "fim":  # which is refused
                yield example
            else:
                left_out += 1

    count = write_set(file, whole(), layout)
    click.echo(f"{count} examples written to {file}")
    if left_out:
        click.echo(f"{left_out} fill-in-the-middle examples have no form that other tools read.")
