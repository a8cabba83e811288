"""`codetune compare`: what several models say to one prompt, side by side."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codetune.cli.options import json_option

if TYPE_CHECKING:
    from codetune.serving.compare import Compared
    from codetune.serving.query import Prompt

_NARROWEST = 32  # columns for one model; with less they stand below each other


@click.command()
@click.argument("prompt", metavar="PROMPT_OR_FILE")
@click.option(
    "--models",
    required=True,
    help="Who answers, joined by commas: names of `codetune models`, a base, remote:ENGINE.",
)
@click.option(
    "--line", "-n", type=click.IntRange(min=1), help="Fill in this line of the file, from 1."
)
@click.option("--column", "-c", type=click.IntRange(min=1), help="… from this column.  [its end]")
@click.option("--chat", is_flag=True, help="Ask it as a question in a conversation.")
@click.option(
    "--max-tokens",
    default=64,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Longest answer.",
)
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0.0, 100.0))
@click.option("--seed", type=int, help="For the same answer again where temperature is not 0.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A codetune.yaml whose section serving names the remote engines.",
)
@json_option
def compare(
    prompt: str,
    models: str,
    line: int | None,
    column: int | None,
    chat: bool,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show what several models answer to one prompt, side by side.

    PROMPT_OR_FILE is the text to go on with, the name of a file that holds it, or - for standard
    input. With --line the file is filled in at that place. The models are asked one after
    another, each with this machine to itself.

    \b
    Examples:
      codetune compare "def add(a, b):" --models nano,myrepo
      codetune compare app.py -n 42 --models nano,myrepo:1,myrepo:2
      codetune compare "What is a mutex?" --chat --models nano,remote:gemini --config team.yaml
    """
    from codetune.cli.terminal import print_json
    from codetune.project import load_project
    from codetune.serving.compare import compare as compare_models
    from codetune.serving.local import local_completer
    from codetune.serving.query import Query

    names = [name.strip() for name in models.split(",") if name.strip()]
    asked = _prompt(prompt, line, column, chat)
    completer = local_completer(load_project(config).serving)
    query = Query([asked], max_tokens=max_tokens, temperature=temperature, seed=seed)
    try:
        found = asyncio.run(compare_models(completer, query, names))
    finally:
        completer.engine.close()
    if as_json:
        print_json({"answers": [asdict(answer) for answer in found]})
    else:
        _show(found)
    if all(answer.error for answer in found):
        raise click.exceptions.Exit(2)


def _prompt(given: str, line: int | None, column: int | None, chat: bool) -> Prompt:
    from codetune.cli.complete import fim_at
    from codetune.errors import ConfigError
    from codetune.serving.query import Chat, Text

    file = Path(given)
    is_file = len(given) < 4096 and "\n" not in given and file.is_file()
    if line is not None:
        if not is_file or chat:
            raise ConfigError("--line is for a place in a file, without --chat.")
        return fim_at(file, line, column)
    if column is not None:
        raise ConfigError("--column needs --line.")
    text = sys.stdin.read() if given == "-" else _read(file) if is_file else given
    return Chat([{"role": "user", "content": text}]) if chat else Text(text)


def _read(file: Path) -> str:
    from codetune.errors import SourceError

    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} cannot be read as text: {error}.") from error


def _show(found: list[Compared]) -> None:
    """A column for each model, or one below the other where the terminal is narrow."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    heads = [_head(answer) for answer in found]
    bodies = [
        Text(answer.error, style="red") if answer.error else Text(answer.text) for answer in found
    ]
    if console.width // len(found) < _NARROWEST:
        for head, body in zip(heads, bodies, strict=True):
            console.rule(head, align="left")
            console.print(body, highlight=False)
        return
    table = Table(expand=True, header_style="bold", show_lines=False)
    for head in heads:
        table.add_column(head, ratio=1, overflow="fold")
    table.add_row(*bodies)
    console.print(table)


def _head(answer: Compared) -> str:
    name = answer.asked if answer.model == answer.asked else f"{answer.asked} → {answer.model}"
    if answer.error:
        return name
    first = answer.first_token_seconds
    waited = "" if first is None else f", first after {first * 1e3:.0f} ms"
    return f"{name}\n{answer.completion_tokens} tokens in {answer.seconds:.2f} s{waited}"
