"""`codetune models|show|report|promote|remove`: what the registry holds."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from codetune.cli.options import json_option
from codetune.cli.terminal import moment, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codetune.errors import CodetuneError
    from codetune.records import ModelCard
    from codetune.registry.cards import Registry
    from codetune.workspace.analytics import Quality

_ALWAYS = 36_500  # days


@click.command()
@click.option("--all", "with_trials", is_flag=True, help="Also list the trials of searches.")
@json_option
def models(with_trials: bool, as_json: bool) -> None:
    """List the base and your tuned models.

    A name such as myrepo stands for its newest promoted version: one that was better than its
    base on held-out code, or that you promoted yourself. Damaged models are listed below.

    \b
    Examples:
      codetune models
      codetune models --json
      codetune models --all
    """
    from rich.console import Console
    from rich.table import Table

    from codetune.artifacts import home
    from codetune.cli.tables import trials_table
    from codetune.registry.cards import Registry

    registry = Registry(home())
    cards, problems = registry.list(), registry.problems()
    searches = _searches(registry, cards) if with_trials else {}
    if as_json:
        damaged = [
            {"model": label, "message": error.message, "advice": error.advice}
            for label, error in problems.items()
        ]
        shown = [
            asdict(card) | {"search": s} if (s := searches.get(card.id)) else asdict(card)
            for card in cards
        ]
        print_json({"models": shown, "problems": damaged})
        return
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for title in ("model", "kind", "base", "status", "bits per byte", "FIM exact", "created"):
        # A name that is cut off could not be asked for.
        table.add_column(title, no_wrap=title == "model", overflow="fold")
    for card in cards:
        table.add_row(
            card.id,
            card.kind if card.shares_batches or card.kind == "full" else f"{card.kind}, alone",
            card.base if card.kind != "base" else "",
            _status(card),
            _pair(card.metrics, "bits_per_byte"),
            _pair(card.metrics, "fim_exact_match"),
            moment(card.created) if card.kind != "base" else "",  # a base came with its files
        )
    Console().print(table)
    for label, search in searches.items():
        click.echo(f"\nTrials that led to {label}:")
        trials_table(search)
    if alone := [card.id for card in cards if card.kind == "adapter" and not card.shares_batches]:
        click.echo(f"\nServed alone, not in one batch with other adapters: {', '.join(alone)}.")
    _show_damage(problems)
    if all(card.kind == "base" for card in cards) and not problems:
        click.echo("\nNo model of your own yet.  Next: codetune tune PATH")


def _searches(registry: Registry, cards: list[ModelCard]) -> dict[str, Mapping[str, Any]]:
    """The searches that led to models, by the model's id."""
    found = {card.id: registry.search_of(card) for card in cards}
    return {label: search for label, search in found.items() if search is not None}


def _show_damage(problems: Mapping[str, CodetuneError]) -> None:
    """What cannot be used, why, and what to do about it."""
    from codetune.registry.bases import is_base

    for label, error in problems.items():
        click.echo()
        click.secho(f"Damaged: {label}", fg="red")
        click.echo(f"  {error.message}")
        if is_base(label):
            click.echo(f"  {error.advice}")
        else:
            click.echo(f"  Tune it again, or delete it: codetune remove {label}")


def _status(card: ModelCard) -> str:
    return "base" if card.kind == "base" else ("promoted" if card.promoted else "candidate")


def _pair(metrics: dict[str, Any], field: str) -> str:
    """Base → tuned, when the card has a scorecard."""
    if "base" not in metrics or "tuned" not in metrics:
        return ""
    base, tuned = metrics["base"].get(field), metrics["tuned"].get(field)
    if base is None or tuned is None:  # not measured
        return "–"
    return f"{base['value']:.3f} → {tuned['value']:.3f}"


@click.command()
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show the card of MODEL: where it comes from and what it scored.

    \b
    Examples:
      codetune show myrepo
      codetune show myrepo:2 --json
    """
    from codetune.artifacts import home
    from codetune.cli.tables import scorecard_table, search_line, trials_table
    from codetune.evaluation.words import ALONE
    from codetune.registry.cards import Registry

    registry = Registry(home())
    card = registry.get(model)
    search, quality = registry.search_of(card), _quality(card)
    if as_json:
        extra = {"folder": str(registry.folder(card)), "quality": _numbers(quality)}
        print_json({**asdict(card), **extra, **({"search": search} if search else {})})
        return
    rows = {
        "model": card.id,
        "status": " ".join([_status(card), *(f"· {r}" for r in card.metrics.get("reasons", ()))]),
        "base": card.base,
        "method": card.method,
        "served": "" if card.shares_batches else ALONE[card.kind],
        "compared with": card.metrics.get("reference") or "",
        "created": card.created,
        "commits": ", ".join(f"{repo}@{sha[:12]}" for repo, sha in card.commits.items()),
        "licences": ", ".join(f"{name} ({n})" for name, n in card.licences.items()),
        "data digest": card.data_digest,
        "config digest": card.config_digest,
        "parents": ", ".join(card.parents),
        "search": search_line(search) if search else "",
        "in editors": _in_editors(quality),
        "folder": str(registry.folder(card)),
    }
    for key, value in rows.items():
        if value:
            click.echo(f"{key:<14} {value}")
    if "base" in card.metrics and "tuned" in card.metrics:
        click.echo()
        scorecard_table(card.metrics)
    if search:
        click.echo()
        trials_table(search)


def _quality(card: ModelCard) -> Quality:
    """What became of its completions in the editors that this home's server has served."""
    from codetune.cli.store import reading
    from codetune.registry.access import LOCAL
    from codetune.store.database import is_there
    from codetune.workspace.analytics import Quality, quality

    nothing = Quality(card.id)
    if not is_there():
        return nothing
    with reading() as session:
        return next(iter(quality(session, LOCAL, _ALWAYS, [card.id])), nothing)


def _numbers(quality: Quality) -> dict[str, Any]:
    rates = {"accept_rate": quality.accept_rate, "dismiss_rate": quality.dismiss_rate}
    return {**asdict(quality), **rates}


def _in_editors(quality: Quality) -> str:
    if quality.accept_rate is None:
        return ""
    said = f"{quality.shown} shown, {quality.accept_rate:.0%} accepted"
    if quality.dismissed:
        said += f", {quality.dismiss_rate:.0%} dismissed"
    if quality.edit_ratio is not None:
        said += f"; of {quality.looked_at} seen later, {quality.edit_ratio:.0%} was changed"
    return said


@click.command()
@click.argument("model")
@click.option("--open", "open_it", is_flag=True, help="Open the page in the browser.")
@click.option("--markdown", is_flag=True, help="Print the report as Markdown.")
@json_option
def report(model: str, open_it: bool, markdown: bool, as_json: bool) -> None:
    """Say where the report of MODEL is; open it or print it.

    \b
    Examples:
      codetune report myrepo
      codetune report myrepo --open
      codetune report myrepo --markdown | less
    """
    from codetune.artifacts import home
    from codetune.errors import RegistryError
    from codetune.registry.cards import Registry

    registry = Registry(home())
    card = registry.get(model)
    page = registry.folder(card) / "report.html"
    if not page.exists():
        raise RegistryError(
            f"{card.id} has no report.", advice="A report is written by `codetune tune`."
        )
    if as_json:
        print_json({"model": card.id, "report": str(page), "promoted": card.promoted})
    elif markdown:
        click.echo((page.parent / "report.md").read_text())
    else:
        click.echo(str(page))
        if open_it:
            click.launch(page.as_uri())


@click.command()
@click.argument("model")
@json_option
def promote(model: str, as_json: bool) -> None:
    """Make MODEL the version that its name stands for, whatever its scores.

    Newer promoted versions of the same name become candidates again, so this is also the way
    back to an older one. A running server follows within seconds.

    \b
    Examples:
      codetune promote myrepo:3
      codetune promote myrepo:1 --json
    """
    from codetune.artifacts import home
    from codetune.registry.cards import Registry

    registry = Registry(home())
    old = registry.get(registry.get(model).name)
    card = registry.promote(model)
    if as_json:
        print_json({"model": card.id, "promoted": card.promoted, "before": old.id})
    elif old.promoted and old.id == card.id:
        click.echo(f"'{card.name}' stands for {card.id} already.")
        others = [c.id for c in registry.list() if c.name == card.name and c.id != card.id]
        if model == card.name and others:
            click.echo(f"Name the version to promote another one: {', '.join(others)}")
    else:
        before = f" (before: {old.id})" if old.id != card.id else ""
        click.echo(f"'{card.name}' stands for {card.id} now{before}.")


@click.command()
@click.argument("model")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def remove(model: str, yes: bool, as_json: bool) -> None:
    """Delete one version of a model, such as myrepo:2, for good.

    Its number is not given again. What it was made from is kept: `codetune tune` on the same
    source registers it anew, without training again.

    \b
    Examples:
      codetune remove myrepo:2
      codetune remove myrepo:2 --yes --json
    """
    from codetune.artifacts import home
    from codetune.errors import ConfigError
    from codetune.registry.cards import Registry

    registry = Registry(home())
    registry.version_folder(model)  # says what is wrong with the name before it asks
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise ConfigError(
                f"Nobody can be asked whether {model} is to be removed for good.",
                advice=f"Say so: codetune remove {model} --yes",
            )
        if not click.confirm(f"Remove {model} for good?", err=True):
            click.echo(f"{model} is kept.")
            raise click.exceptions.Exit(1)
    registry.remove(model, name_others=True)
    heir = _heir(registry, model)
    if as_json:
        print_json({"removed": model, "name_stands_for": heir})
    else:
        name = model.rpartition(":")[0]
        click.echo(f"{model} is removed." + (f" '{name}' stands for {heir}." if heir else ""))


def _heir(registry: Registry, removed: str) -> str | None:
    """The version that the removed one's name stands for from now on, if there is one left."""
    name = removed.rpartition(":")[0]
    if not any(card.name == name and card.kind != "base" for card in registry.list()):
        return None
    return registry.get(name).id
