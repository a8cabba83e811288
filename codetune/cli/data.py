"""`codetune data`: training data checked, shown, mixed, reviewed and written for other tools."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codetune.cli.options import Command, json_option
from codetune.cli.terminal import print_json, progress_shown
from codetune.cli.write import write
from codetune.errors import DatasetError

if TYPE_CHECKING:
    from codetune.dataset.config import MixedSet
    from codetune.dataset.conversations import Conversations
    from codetune.dataset.formats import Problems
    from codetune.dataset.inspection import Census, View
    from codetune.models.prompts import Renderer
    from codetune.records import Example

_FORMATS = ["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "text"]
_TEMPLATES = ["auto", "base", "chatml", "alpaca", "llama2", "plain"]


@click.group()
def data() -> None:
    """Check, show, mix, review and write training data."""


data.add_command(write)


def _set_options(command: Command) -> Command:
    """How a file is read."""
    for decorate in (
        click.option("--encoding", help="Of a text file that is not UTF-8, e.g. latin-1."),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="FIELD=NAME",
            help="This file's name for a field, e.g. instruction=question. Repeatable.",
        ),
        click.option(
            "--format",
            "form",
            type=click.Choice(_FORMATS),
            default="auto",
            show_default=True,
            help="What the rows' fields mean.",
        ),
    ):
        command = decorate(command)
    return command


def _base_options(command: Command) -> Command:
    """For which base rows are rendered."""
    for decorate in (
        click.option("--window", type=click.IntRange(64), help="Tokens. [default: the base's]"),
        click.option(
            "--template",
            type=click.Choice(_TEMPLATES),
            default="auto",
            show_default=True,
            help="How conversations are written.",
        ),
        click.option("--base", help="nano, a folder, or a Hugging Face id."),
    ):
        command = decorate(command)
    return command


@data.command(short_help="Check files row by row.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_set_options
@_base_options
@click.option("--most", type=click.IntRange(1), default=20, show_default=True,
              help="Problems that are listed, at most.")  # fmt: skip
@json_option
def validate(
    files: tuple[Path, ...],
    form: str,
    columns: tuple[str, ...],
    encoding: str | None,
    base: str | None,
    template: str,
    window: int | None,
    most: int,
    as_json: bool,
) -> None:
    """Check FILES (or folders) row by row; exit code 2 if any row is bad.

    With --base, rows are rendered for it, too: how many tokens they have, and how many answers
    do not fit.

    \b
    Examples:
      codetune data validate train.jsonl
      codetune data validate answers.csv --column instruction=question --column output=answer
      codetune data validate ~/sets/dolly --base nano --json
    """
    from codetune.dataset.formats import Problems, left_out_of, not_read, read_set
    from codetune.dataset.inspection import Census

    conversations = _conversations(base, template, window) if base else None
    mapping = _columns(columns)
    reports: list[dict[str, Any]] = []
    with progress_shown(quiet=as_json) as progress:
        for file in files:
            census, problems = Census(conversations), Problems(most, stop=False)
            with progress.task(f"Reading {file.name}"):
                for example in read_set(
                    file, format=form, columns=mapping, encoding=encoding, problems=problems
                ):
                    census.add(example)
            found = [problem._asdict() for problem in problems.first]
            left_out = left_out_of(file)
            reports.append(
                {"file": str(file), "valid": not problems.total, **census.row()}
                | {"left_out": left_out}
                | {"problems": problems.total, "first_problems": found}
            )
            if not as_json:
                _show_census(file, census, problems.total)
                if left_out:
                    click.echo(f"  {not_read(left_out)}")
                for problem in problems.first:
                    click.echo(f"  {problem}")
    if as_json:
        print_json({"files": reports})
    if not all(report["valid"] for report in reports):
        click.get_current_context().exit(2)


def _show_census(file: Path, census: Census, problems: int) -> None:
    row = census.row()

    def counted(number: int, what: str) -> str:
        return f"{number:,} {what}{'' if number == 1 else 's'}"

    bad = counted(problems, "bad row") if problems else "no bad row"
    examples, answers = counted(row["examples"], "example"), counted(row["answers"], "answer")
    click.echo(f"{file}: {examples}, {answers}, {bad}")
    if census.conversations is not None:
        click.echo(
            f"  {row['tokens']:,} tokens, {row['learned_tokens']:,} of them learned; "
            f"{row['shortened']:,} shortened to fit"
        )
        for reason, count in row["refused"].items():
            click.echo(f"  {count:,} not trained on: {reason}")


@data.command(short_help="Show one row as the model will read it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--row", type=click.IntRange(1), default=1, show_default=True,
              help="The row, as `validate` counts them; of a dataset, the example.")  # fmt: skip
@_set_options
@_base_options
@json_option
def show(
    file: Path,
    row: int,
    form: str,
    columns: tuple[str, ...],
    encoding: str | None,
    base: str | None,
    template: str,
    window: int | None,
    as_json: bool,
) -> None:
    """Show one row of FILE, or of a built dataset's folder, as the model will read it.

    What is learned is green (in a pipe: between ⟦ and ⟧); the rest is context.

    \b
    Examples:
      codetune data show train.jsonl
      codetune data show train.jsonl --row 17 --base Qwen/Qwen2.5-Coder-1.5B-Instruct
      codetune data show ~/.codetune/projects/…/datasets/… --row 4021 --json | jq .learned
    """
    from codetune.dataset.formats import Problems, read_set
    from codetune.dataset.inspection import view_example, view_stored
    from codetune.models.load import resolve_base

    base = base or "nano"
    conversations = _conversations(base, template, window)
    renderer = conversations.renderer
    if (file / "tokens" / "store.json").is_file():
        view, stream = view_stored(file, row, resolve_base(base).path)
        _show_view(view, renderer, {"row": row, "stream": stream}, as_json)
        return
    problems = Problems(stop=False)
    found = read_set(file, format=form, columns=_columns(columns), encoding=encoding,
                     problems=problems)  # fmt: skip
    example = _example_at(row, file, found, problems)
    view = view_example(example, conversations)
    facts = {"row": example.source.span[0], "id": example.id, "messages": example.messages}
    _show_view(view, renderer, facts, as_json)


def _example_at(row: int, file: Path, found: Iterable[Example], problems: Problems) -> Example:
    """Raises:
    DatasetError: the row is bad, or there is none of this number; then how many there are.
    """
    example, last = None, 0
    for example in found:
        last = example.source.span[0]
        if row == 1 or last >= row:
            break
    bad = problems.first[-1].row if problems.first else 0
    # With more problems than are kept, the row may be one of the others.
    if bad >= row or (last < row and problems.total > len(problems.first)):
        problems.refuse()
    if example is None or last < row:
        end = max(last, bad)
        raise DatasetError(
            f"{file} has no row {row}.",
            advice=f"Its last one is row {end}." if end else "It has no rows at all.",
        )
    if row > 1 and last != row:
        raise DatasetError(f"{file} has no row {row}.", advice=f"The next one is row {last}.")
    return example


def _show_view(view: View, renderer: Renderer, facts: dict[str, Any], as_json: bool) -> None:
    learned = int(view.loss.sum())
    if as_json:
        facts |= {"count": len(view.ids), "learned": learned, "note": view.note}
        print_json({**facts, "tokens": view.tokens(renderer)})
        return
    coloured = sys.stdout.isatty()
    for text, loss in view.runs(renderer):
        mark = click.style(text, fg="green", bold=True) if coloured else f"⟦{text}⟧"
        click.echo(mark if loss else text, nl=False)
    note = f"; {view.note}" if view.note else ""
    stream = f", stream {facts['stream']}" if "stream" in facts else ""
    click.echo(f"\n\nrow {facts['row']}{stream}: {len(view.ids)} tokens, {learned} learned{note}")


@data.command(short_help="Say what the sets under dataset.mix hold.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--tokens", type=click.IntRange(1), default=1_000_000, show_default=True,
              help="Tokens of the repository's own that the sets are mixed into.")  # fmt: skip
@click.option("--window", type=click.IntRange(64), help="Tokens. [default: the base's]")
@json_option
def mix(config: Path, tokens: int, window: int | None, as_json: bool) -> None:
    """Say what the sets under dataset.mix in CONFIG hold, and how often each is repeated.

    \b
    Examples:
      codetune data mix codetune.yaml
      codetune data mix codetune.yaml --tokens 250000 --json | jq '.sets[].epochs'
    """
    from codetune.cli.tables import mix_table
    from codetune.dataset.formats import left_out_of
    from codetune.dataset.mix import shares_of
    from codetune.project import load_project

    project = load_project(config)
    sets = project.dataset.mix
    if not sets:
        raise DatasetError(
            f"{config} mixes nothing in.",
            advice="dataset.mix: [{name: dolly, path: ~/dolly.jsonl, share: 0.2}]",
        )
    window = window or project.dataset.window
    conversations = _conversations(project.base, project.dataset.template, window)
    shares = shares_of(sets)
    rows = []
    with progress_shown(quiet=as_json) as progress:
        for one, share in zip(sets, shares, strict=True):
            with progress.task(f"Reading {one.name}"):
                census, bad = _count(one, conversations)
            wanted = tokens * share / (1 - sum(shares))
            epochs = wanted / max(census.tokens, 1)
            enough = epochs <= one.epochs_at_most
            rows.append(
                {"name": one.name, "share": round(share, 4), "wanted_tokens": round(wanted)}
                | {"epochs": round(min(max(epochs, 0), one.epochs_at_most), 3), "enough": enough}
                | {"bad_rows": bad, **census.row()}
                | {"left_out": left_out_of(Path(one.path).expanduser())}
            )
    if as_json:
        print_json({"own_tokens": tokens, "sets": rows})
    else:
        mix_table(rows)
        click.echo(f"\nMixed into {tokens:,} tokens of the repository's own (--tokens).")


def _count(one: MixedSet, conversations: Conversations) -> tuple[Census, int]:
    from codetune.dataset.formats import Problems, read_set
    from codetune.dataset.inspection import Census

    census, problems = Census(conversations), Problems(stop=not one.skip_bad)
    for example in read_set(
        Path(one.path).expanduser(),
        format=one.format,
        columns=one.columns,
        encoding=one.encoding,
        problems=problems,
    ):
        census.add(example)
    if not one.skip_bad:
        problems.refuse()
    return census, problems.total


def _columns(entries: tuple[str, ...]) -> Mapping[str, str]:
    columns = dict(entry.partition("=")[::2] for entry in entries)
    if not all(columns.values()):
        raise click.UsageError("--column: expected FIELD=NAME, for example instruction=question.")
    return columns


def _conversations(base: str, template: str, window: int | None) -> Conversations:
    """How conversations are encoded for the base called `base`."""
    from codetune.dataset.config import DatasetOptions
    from codetune.dataset.conversations import Conversations
    from codetune.dataset.recipe import window_of
    from codetune.models.load import resolve_base
    from codetune.models.prompts import Renderer

    path = resolve_base(base).path
    options = DatasetOptions.load({"template": template, "window": window}, "the command line")
    renderer = Renderer.from_folder(path).with_template(options.template)
    return Conversations(renderer, window_of(options, path))


@data.command(short_help="Page through examples: keep, drop or edit them.")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--review", "file", type=click.Path(path_type=Path), default="review.jsonl",
              show_default=True, help="Where decisions are kept.")  # fmt: skip
@click.option("--stream", help="Only this stream: ntp, fim, sft, replay, or a set's name.")
@click.option("--sample", type=click.IntRange(1), default=100, show_default=True,
              help="Examples to look at, drawn by lot.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the lot.")
@click.option("--export", "exported", type=click.Path(path_type=Path),
              help="Write the sample to this file instead of asking.")  # fmt: skip
@click.option("--import", "imported", type=click.Path(path_type=Path),
              help="Take the decisions in this file over.")  # fmt: skip
@json_option
def review(
    dataset: Path,
    file: Path,
    stream: str | None,
    sample: int,
    seed: int,
    exported: Path | None,
    imported: Path | None,
    as_json: bool,
) -> None:
    """Page through examples of DATASET (a built one's folder): keep, drop or edit.

    Decisions go to the review file; `dataset.review: review.jsonl` makes building honour them.
    An exported row gets a "verdict" (keep, drop, or edit with other messages) before it is
    imported; rows without one are left undecided.

    \b
    Examples:
      codetune data review ~/.codetune/projects/…/datasets/… --stream sft
      codetune data review FOLDER --export sample.jsonl
      codetune data review FOLDER --import sample.jsonl --review review.jsonl
    """
    from codetune.cli.review import ask, export_sample, import_decisions
    from codetune.dataset.inspection import sample_examples

    if imported is not None:
        counts = import_decisions(imported, file, dataset)
    else:
        examples = sample_examples(dataset, sample, seed, stream)
        counts = export_sample(examples, exported) if exported else ask(examples, file)
    if as_json:
        print_json(counts)
    else:
        click.echo(", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing decided")
        if not exported and file.exists():
            click.echo(f"Next      codetune build SOURCE --set dataset.review={file}")
