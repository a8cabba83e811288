"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def json_option(command: Command) -> Command:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


def base_option(command: Command) -> Command:
    return click.option(
        "--base", help="The model to start from: nano, a folder, or a Hugging Face id.  [nano]"
    )(command)


def method_option(command: Command) -> Command:
    return click.option(
        "--method",
        type=click.Choice(["lora", "full"]),
        help="lora: small matrices beside the base's weights. full: every weight.  [lora]",
    )(command)


def project_options(command: Command) -> Command:
    """Options of every command that runs stages of a project."""
    decorators: list[Decorator] = [
        click.argument("source"),
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            help="A codetune.yaml; `codetune init` writes one with every option.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="One option of codetune.yaml, e.g. training.epochs=2. Repeatable.",
        ),
        json_option,
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command
