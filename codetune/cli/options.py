"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from codetune.errors import ConfigError

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def json_option(command: Command) -> Command:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


def base_option(command: Command) -> Command:
    return click.option(
        "--base",
        help="The model to start from: nano, a folder, a Hugging Face id, or a tuned model of "
        "yours.  [nano]",
    )(command)


DATA = ("ntp", "fim", "sft")


def data_option(command: Command) -> Command:
    """`--data ntp,fim,sft`: which streams are made; `data_settings` turns it into options."""
    return click.option(
        "--data",
        metavar="STREAMS",
        help="What is trained on: ntp (next token), fim (fill in the middle), sft (instructions), "
        "joined by commas.",
    )(command)


def data_settings(data: str | None) -> dict[str, bool | None]:
    """The options of the dataset that `--data` stands for; none of them without it."""
    if data is None:
        return {}
    names = [name.strip() for name in data.split(",") if name.strip()]
    unknown = [name for name in names if name not in DATA]
    if unknown or not names:
        raise ConfigError(
            f"--data {data}: '{unknown[0] if unknown else data}' is not a stream.",
            advice=f"Join some of them by commas: {', '.join(DATA)}.",
        )
    return {f"dataset.use_{name}": name in names for name in DATA}


# As TrainingOptions.method has them; a test keeps them equal.
METHODS = ("lora", "full", "dora", "qlora", "qlora8")


def method_option(command: Command) -> Command:
    """`--method`."""
    return click.option(
        "--method",
        type=click.Choice(METHODS),
        help="lora: small matrices beside the base's weights; dora, and qlora and qlora8 on a "
        "base in 4 or 8 bits, are kinds of it. full: every weight.  [lora]",
    )(command)


# As ProjectConfig.preset has them; a test keeps them equal.
PRESETS = ("continued-pretraining",)


def project_options(command: Command) -> Command:
    """Options of every command that runs stages of a project."""
    decorators: list[Decorator] = [
        click.argument("source"),
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            help="A codetune.yaml (`codetune init` writes one with every option), or an "
            "Axolotl file.",
        ),
        click.option(
            "--preset",
            type=click.Choice(PRESETS),
            help="Other defaults. continued-pretraining: every weight, plain text alone, a low "
            "rate, a long warm-up, general code replayed.",
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
