"""`codetune export-config`: our options in another trainer's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

TOOLS = ("axolotl", "llamafactory", "trl")
# How each tool names the same file: by its path, by its entry in data/dataset_info.json, and by
# the folder that it lies in.
_FILE = "data/train.jsonl"
_NAMED = {"axolotl": _FILE, "llamafactory": "train", "trl": "data"}
_ENTRY = '"train": {"file_name": "train.jsonl", "columns": {"prompt": "text"}}'


@click.command("export-config")
@click.argument("tool", type=click.Choice(TOOLS))
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A codetune.yaml; without it the defaults.",
)
@click.option("--base", help="The base that the other tool tunes.")
@click.option("--data", help=f"The data it trains on, as it names them; when not given, {_FILE}.")
@click.option("--output", type=click.Path(path_type=Path), help="A file; default: printed.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="One option of codetune.yaml, e.g. training.epochs=2. Repeatable.",
)
def export_config(
    tool: str,
    config_file: Path | None,
    base: str | None,
    data: str | None,
    output: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Write the training options as a file that TOOL accepts.

    \b
    Examples:
      codetune export-config axolotl --base Qwen/Qwen2.5-Coder-1.5B > axolotl.yaml
      codetune export-config trl --config codetune.yaml --output sft.yaml
    """
    import yaml

    from codetune.bridges import axolotl, others
    from codetune.errors import ConfigError
    from codetune.project import load_project

    writers = {"axolotl": axolotl.write, "llamafactory": others.llamafactory, "trl": others.trl}
    config: dict[str, Any] = load_project(config_file, {"base": base}, settings).model_dump(
        mode="json"
    )
    lost = others.lost(config, tool)
    text = yaml.safe_dump(
        writers[tool](config, data or _NAMED[tool]), sort_keys=False, allow_unicode=True
    )
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text)
        except OSError as error:
            raise ConfigError(f"{output} cannot be written: {error.strerror}.") from error
        click.echo(f"Written  {output}")
    for line in lost:
        click.echo(f"Not in it: {line}.", err=True)
    if data is None:
        click.echo(_how_to_write(tool), err=True)


def _how_to_write(tool: str) -> str:
    """The commands that write the data which the file names."""
    said = (
        "Its data:  codetune build SOURCE --data ntp\n"
        f"           codetune data write ARTIFACT {_FILE}   (the Artifact that build prints)"
    )
    if tool == "llamafactory":
        said += f"\n           and in data/dataset_info.json: {{{_ENTRY}}}"
    return said
