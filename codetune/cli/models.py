"""`codetune models|show|report`: what the registry holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from codetune.cli.options import json_option
from codetune.cli.terminal import print_json


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the base and your tuned models.

    \b
    Examples:
      codetune models
      codetune models --json
    """
    from rich.console import Console
    from rich.table import Table

    from codetune.artifacts import home
    from codetune.registry.cards import Registry

    cards = Registry(home()).list()
    if as_json:
        print_json({"models": [asdict(card) for card in cards]})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "kind", "base", "status", "bits per byte", "FIM exact", "created"):
        table.add_column(title)
    for card in cards:
        status = "base" if card.kind == "base" else ("promoted" if card.promoted else "candidate")
        table.add_row(
            card.id,
            card.kind,
            card.base if card.kind != "base" else "",
            status,
            _pair(card.metrics, "bits_per_byte"),
            _pair(card.metrics, "fim_exact_match"),
            card.created[:16].replace("T", " "),
        )
    Console().print(table)
    if all(card.kind == "base" for card in cards):
        click.echo("\nNo model of your own yet.  Next: codetune tune PATH")


def _pair(metrics: dict[str, Any], field: str) -> str:
    """Base → tuned, when the card has a scorecard."""
    if "base" not in metrics or "tuned" not in metrics:
        return ""
    if metrics["base"][field] is None or metrics["tuned"][field] is None:
        return "–"
    return f"{metrics['base'][field]['value']:.3f} → {metrics['tuned'][field]['value']:.3f}"


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
    from codetune.cli.tables import scorecard_table
    from codetune.registry.cards import Registry

    registry = Registry(home())
    card = registry.get(model)
    if as_json:
        print_json({**asdict(card), "folder": str(registry.folder(card))})
        return
    rows = {
        "model": card.id,
        "status": "promoted" if card.promoted else ("base" if card.kind == "base" else "candidate"),
        "base": card.base,
        "method": card.method,
        "created": card.created,
        "commits": ", ".join(f"{repo}@{sha[:12]}" for repo, sha in card.commits.items()),
        "licences": ", ".join(f"{name} ({n})" for name, n in card.licences.items()),
        "data digest": card.data_digest,
        "config digest": card.config_digest,
        "parents": ", ".join(card.parents),
        "folder": str(registry.folder(card)),
    }
    for key, value in rows.items():
        if value:
            click.echo(f"{key:<14} {value}")
    if "base" in card.metrics and "tuned" in card.metrics:
        click.echo()
        scorecard_table(card.metrics)


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
