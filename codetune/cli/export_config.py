"""`codetune export-config`: our options in another trainer's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

TOOLS = ("axolotl", "llamafactory", "trl")


@click.command("export-config")
@click.argument("tool", type=click.Choice(TOOLS))
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A codetune.yaml; without it the defaults.",
)
@click.option("--base", help="The base that the other tool tunes.")
@click.option("--data", default="train.jsonl", show_default=True, help="The data it trains on.")
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
    data: str,
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
    text = yaml.safe_dump(writers[tool](config, data), sort_keys=False, allow_unicode=True)
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
