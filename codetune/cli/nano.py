"""`codetune nano`: make the embedded base model again, or look at its card."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from codetune.cli.terminal import progress_shown


@click.group()
def nano() -> None:
    """The embedded base model and its recipe."""


def _home() -> Path:
    from codetune.artifacts import home

    return home() / "nano"


@nano.command()
@click.option("--minutes", type=float, help="Time for training, its decay included.")
@click.option("--tokens", type=int, help="Tokens to train on, instead of --minutes.")
@click.option("--longer", is_flag=True, help="Go on after a run that is finished.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the finished model goes.  [the run's folder]",
)
@click.option(
    "--packages",
    "package_list",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Another list of pinned packages.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
def train(
    minutes: float | None,
    tokens: int | None,
    longer: bool,
    device: str,
    out: Path | None,
    package_list: Path | None,
    quiet: bool,
) -> None:
    """Make nano: packages, documents, tokenizer, training, model card.

    Everything is kept in $CODETUNE_HOME/nano: after an interruption, run it again and it goes
    on where it was.

    \b
    Examples:
      codetune nano train --minutes 90
      codetune nano train --tokens 40000000 --device cuda --out ./nano
    """
    from codetune.interrupt import unhurried
    from codetune.models.nano import packages, story
    from codetune.models.nano.recipe import Recipe
    from codetune.models.nano.train import Budget

    if (minutes is None) == (tokens is None):
        raise click.UsageError("Say how long: --minutes 90, or --tokens 40000000.")
    recipe, folders = Recipe(), story.Folders(_home())
    chosen = package_list or story.default_packages()
    with progress_shown(quiet=quiet) as progress:
        admitted = story.prepare(recipe, folders, chosen, progress)
        budget = Budget(tokens=tokens, minutes=minutes)
        with unhurried(signal.SIGTERM):  # which saves the weights first
            done = story.train(recipe, folders, budget, progress, device, longer=longer)
        if not done:
            progress.say("Stopped; the checkpoint is saved. Run the same command to go on.")
            return
        held_out = {pin.name for pin in packages.read_pins(chosen.read_text()) if pin.held_out}
        target = out or folders.home / "model"
        progress.say("measuring")
        measured = story.finish(folders, admitted, held_out, target, device)
    click.echo(f"{target}: {measured['bits_per_byte']['all']:.3f} bits per byte held out")


@nano.command(short_help="Print the card of the nano that ships with codetune.")
def card() -> None:
    """Print the card of the nano that ships with codetune: its data, licences and scores.

    \b
    Examples:
      codetune nano card | less
    """
    from codetune.models.nano import story

    click.echo((story.default_packages().parent / "weights" / "README.md").read_text())
