"""`codetune tune`: the whole job in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codetune.cli.options import (
    base_option,
    data_option,
    data_settings,
    method_option,
    project_options,
)
from codetune.cli.terminal import print_json, progress_shown


@click.command()
@project_options
@base_option
@data_option
@method_option
@click.option(
    "--search",
    "trials",
    type=click.IntRange(min=2),
    metavar="N",
    help="Try N sets of options first (learning rate, rank, epochs, FIM share, mix) and take the "
    "one with the lowest validation loss; the hopeless ones are stopped early. Needs the extra "
    "[search]; `search:` in codetune.yaml says what is tried.",
)
@click.option("--name", help="Name of the tuned model.  [the repository's name]")
def tune(
    source: str,
    config_file: Path | None,
    preset: str | None,
    base: str | None,
    data: str | None,
    method: str | None,
    trials: int | None,
    name: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Tune a model on SOURCE and prove on held-out code that it is better.

    SOURCE is a git repository (a path or a URL), a folder, or a zip or tar archive. Reads
    it, cleans it, builds training data, tunes the base, scores base and tuned on code that was
    held out by time and by file, and registers the result with a report. Finished stages are
    kept: a run that was stopped goes on when it is started again.

    \b
    Examples:
      codetune tune .
      codetune tune https://github.com/OWNER/NAME --method full --name ours
      codetune tune . --base Qwen/Qwen2.5-Coder-1.5B --set training.epochs=2
      codetune tune . --data ntp,fim,sft
      codetune tune . --preset continued-pretraining
      codetune tune . --search 8 --set search.seed=1
      codetune tune . --config codetune.yaml --json > result.json
    """
    from codetune import pipeline
    from codetune.project import load_project

    overrides: dict[str, Any] = {
        "preset": preset,
        "base": base,
        "name": name,
        "training.method": method,
    }
    overrides |= {"search.trials": trials} | data_settings(data)
    config = load_project(config_file, overrides, settings)
    with progress_shown(quiet=as_json) as progress:
        result = pipeline.tune(source, config, progress)
    if as_json:
        print_json(result.as_json())
    else:
        _show(result)


def _show(result: Any) -> None:
    """The scorecard as a table, the verdict, and what to do next."""
    from codetune.cli.tables import scorecard_table, search_line
    from codetune.evaluation.words import ALONE

    card = result.card
    click.echo()
    scorecard_table(result.scorecard)
    click.echo()
    if card.promoted:
        reference = result.scorecard.get("reference") or card.base
        click.secho(f"{card.id} is better than {reference} on held-out code.", bold=True)
    else:
        click.secho(f"{card.id} is kept as a candidate, not promoted:", bold=True)
        for reason in result.scorecard.get("reasons", ()):
            click.echo(f"  - {reason}")
    if card.kind == "adapter" and not card.shares_batches:
        click.echo(f"\nServed {ALONE['adapter']}.")
    if result.search:
        click.echo(f"\nSearch   {search_line(result.search)}")
    click.echo(f"\nReport   {result.report}")
    click.echo(f"Serve    codetune serve            (then ask for model '{card.name}')")
    click.echo(f"Try it   codetune complete FILE --line N --model {card.id}")
