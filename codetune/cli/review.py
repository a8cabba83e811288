"""Asking people about examples, one at a time or through a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from codetune.dataset.inspection import check_decisions
from codetune.dataset.review import Decision, Review, append_decision, read_decisions
from codetune.errors import DatasetError
from codetune.records import Example

_KEYS = {"k": "keep", "d": "drop", "e": "edit", "s": "skip", "q": "quit"}
_ASKED = "[k]eep  [d]rop  [e]dit  [s]kip  [q]uit"


def ask(examples: Sequence[Example], file: Path) -> dict[str, int]:
    """Show the examples that are not decided yet, and write down what is answered."""
    known = Review.load(file).decisions if file.exists() else {}
    waiting = [example for example in examples if example.id not in known]
    counts: Counter[str] = Counter()
    for number, example in enumerate(waiting, 1):
        click.clear()
        source = example.source
        click.secho(f"{number} of {len(waiting)}  {example.stream} {example.kind}", bold=True)
        click.secho(f"{source.repo} {source.path}  {example.id}\n", dim=True)
        _page(example)
        answer = _answer(example)
        if answer == "quit":
            break
        if answer == "skip":
            continue
        decision = _edited(example) if answer == "edit" else Decision(example.id, answer)  # type: ignore[arg-type]
        if decision is not None:
            append_decision(file, decision)
            counts[decision.verdict] += 1
    return dict(counts)


def export_sample(examples: Sequence[Example], file: Path) -> dict[str, int]:
    """Write the examples as lines for a person to put a verdict to.

    Raises:
        DatasetError: the file exists already, or cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as out:
            for example in examples:
                row = {"id": example.id, "verdict": "", "stream": example.stream}
                out.write(json.dumps(row | _content(example), ensure_ascii=False) + "\n")
    except OSError as error:
        raise DatasetError(f"{file} cannot be written: {error.strerror}.") from error
    return {"exported": len(examples)}


def import_decisions(source: Path, file: Path, dataset: Path) -> dict[str, int]:
    """Take over the rows that have a verdict; nothing is written if one of them is wrong."""
    decisions = read_decisions(source, undecided=True)
    check_decisions(decisions, dataset)
    counts: Counter[str] = Counter()
    for decision in decisions:
        append_decision(file, decision)
        counts[decision.verdict] += 1
    return dict(counts)


def _content(example: Example) -> dict[str, object]:
    if example.messages is not None:
        return {"messages": list(example.messages)}
    if example.fim is not None:
        fim = example.fim
        return {"prefix": fim.prefix, "middle": fim.middle, "suffix": fim.suffix}
    return {"text": example.text}


def _page(example: Example) -> None:
    if example.messages is not None:
        for message in example.messages:
            colour = "green" if message["role"] == "assistant" else "cyan"
            click.secho(message["role"], fg=colour, bold=True)
            click.echo(message["content"] + "\n")
    elif example.fim is not None:
        fim = example.fim
        click.echo(fim.prefix[-2000:] + click.style(fim.middle, fg="green", bold=True), nl=False)
        click.echo(fim.suffix[:2000])
    else:
        click.echo((example.text or "")[:4000])


def _answer(example: Example) -> str:
    editable = example.messages is not None
    while True:
        click.secho(f"\n{_ASKED if editable else _ASKED.replace('  [e]dit', '')}", dim=True)
        answer = _KEYS.get(_key().lower(), "")
        if answer and (editable or answer != "edit"):
            return answer


def _key() -> str:
    try:
        return click.getchar()
    except OSError as error:  # neither standard input nor /dev/tty is a terminal
        raise click.UsageError(
            "There is no terminal to ask in. Write the sample to a file (--export FILE), put "
            "verdicts into its rows, and take them over (--import FILE)."
        ) from error


def _edited(example: Example) -> Decision | None:
    """The example's messages after an editor had them; None if they were left alone."""
    before = json.dumps(list(example.messages or ()), ensure_ascii=False, indent=2)
    while True:
        text = click.edit(before, extension=".json")
        if text is None or text.strip() == before.strip():
            return None
        try:
            row = {"id": example.id, "verdict": "edit", "messages": json.loads(text)}
            return Decision.of_row(row, "the edited text")
        except (ValueError, DatasetError) as error:
            click.secho(f"\n{error}", fg="red")
            click.pause()
            before = text
