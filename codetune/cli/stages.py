"""`codetune collect|clean|build|train|evaluate`: one stage at a time, on the same artifacts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
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

Flags = dict[str, Any]


@click.command()
@project_options
def collect(**flags: Any) -> None:
    """Read SOURCE: every file of its past and present, with its commit.

    SOURCE is a git repository (a path or a URL), a folder, or a zip or tar archive. Its
    past is what will be trained on; what was added after the cut-off is only tested on.

    \b
    Examples:
      codetune collect .
      codetune collect https://github.com/OWNER/NAME --set sources.cutoff=2026-01-01
    """
    _run(("collect",), "codetune clean", **flags)


@click.command()
@project_options
def clean(**flags: Any) -> None:
    """Keep or drop every file of SOURCE, each with a counted reason (runs collect, too).

    SOURCE is a git repository (a path or a URL), a folder, or a zip or tar archive. Dropped
    are binary, generated, minified and vendored files, secrets and duplicates, among others;
    `dropped.parquet` in the artifact lists them.

    \b
    Examples:
      codetune clean .
      codetune clean . --json | jq .corpus.dropped
    """
    _run(("collect", "clean"), "codetune build", **flags)


@click.command()
@project_options
@base_option
@data_option
def build(**flags: Any) -> None:
    """Build training and held-out data from SOURCE (runs collect and clean, too).

    SOURCE is a git repository (a path or a URL), a folder, or a zip or tar archive. Held out
    are code added after the cut-off and some whole files. Nothing of them, and nothing like
    them, stays in the training data.

    \b
    Examples:
      codetune build .
      codetune build . --json | jq .dataset.examples
      codetune build . --set dataset.fim_rate=0.9
      codetune build . --data ntp,fim,sft --json | jq .dataset.instructions
    """
    _run(("collect", "clean", "build"), "codetune train", **flags)


@click.command()
@project_options
@base_option
@data_option
@method_option
def train(**flags: Any) -> None:
    """Tune the base model on SOURCE (runs the stages before, too); goes on where it stopped.

    SOURCE is a git repository (a path or a URL), a folder, or a zip or tar archive. The
    model is not registered yet: `codetune tune` does that, after evaluating it.

    \b
    Examples:
      codetune train .
      codetune train . --method full --set training.epochs=2
    """
    _run(("collect", "clean", "build", "train"), "codetune evaluate", **flags)


@click.command()
@project_options
@base_option
@data_option
@method_option
def evaluate(**flags: Any) -> None:
    """Score base and tuned model on held-out code of SOURCE (runs the stages before, too).

    SOURCE is a git repository (a path or a URL), a folder, or a zip or tar archive. Both
    answer the same prompts; the scores carry 95 % intervals.

    \b
    Examples:
      codetune evaluate .
      codetune evaluate . --json | jq .scorecard.tuned
    """
    _run(("collect", "clean", "build", "train", "evaluate"), "codetune tune", **flags)


# What each stage is called in the JSON that `tune --json` prints, too.
PARTS = {
    "collect": "source",
    "clean": "corpus",
    "build": "dataset",
    "train": "training",
    "evaluate": "scorecard",
}


def _run(
    stages: tuple[str, ...],
    next_command: str,
    *,
    source: str,
    config_file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
    preset: str | None = None,
    base: str | None = None,
    method: str | None = None,
    data: str | None = None,
) -> None:
    """Run the last of `stages`; the ones before it are found finished or made on the way."""
    import json

    from codetune.pipeline import Journey
    from codetune.project import load_project

    overrides: dict[str, Any] = {"preset": preset, "base": base, "training.method": method}
    overrides |= data_settings(data)
    config = load_project(config_file, overrides, settings)
    with progress_shown(quiet=as_json) as progress:
        journey = Journey(source, config, progress)
        artifacts = {stage: getattr(journey, stage)() for stage in stages}
    parts: dict[str, Any] = {PARTS[name]: dict(done.summary) for name, done in artifacts.items()}
    last = artifacts[stages[-1]]
    if "evaluate" in artifacts:
        parts["scorecard"] = json.loads((last / "scorecard.json").read_text())
    if as_json:
        print_json({**parts, "artifact": str(last.path)})
        return
    if "evaluate" in artifacts:
        from codetune.cli.tables import scorecard_table

        scorecard_table(parts["scorecard"])
    else:
        _show(parts[PARTS[stages[-1]]])
    options = {"--config": config_file, "--preset": preset, "--base": base, "--data": data}
    words = [source, *_words({**options, "--method": method}, settings)]
    click.echo(f"\nArtifact  {last.path}\nNext      {next_command} {shlex.join(words)}")


def _words(options: Mapping[str, object], settings: Iterable[str]) -> Iterator[str]:
    """The options as they were given: without them the next stage would be another run's."""
    for name, value in options.items():
        if value is not None:
            yield from (name, str(value))
    for setting in settings:
        yield from ("--set", setting)


def _show(summary: Mapping[str, Any], indent: int = 0) -> None:
    """A summary as aligned lines; nested counts one level deeper."""
    for key, value in summary.items():
        label = f"{'  ' * indent}{key.replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            click.echo(label)
            _show(value, indent + 1)
        else:
            click.echo(f"{label:<32} {_figure(value)}")


def _figure(value: Any) -> str:
    if value == {}:  # counts of nothing
        return "0"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
