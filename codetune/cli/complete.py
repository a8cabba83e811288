"""`codetune complete`: one fill-in-the-middle completion of a file, shown in its place."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codetune.cli.options import json_option

if TYPE_CHECKING:
    from codetune.serving.complete import Completer
    from codetune.serving.query import Fim

_CONTEXT = 4  # lines shown on either side


@dataclass(frozen=True)
class Completion:
    """What the model put at one place of a file."""

    model: str
    file: str
    line: int
    column: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--line", "-n", type=click.IntRange(min=1), required=True, help="Line of the place, from 1."
)
@click.option(
    "--column",
    "-c",
    type=click.IntRange(min=1),
    help="Column of the place, from 1.  [the end of the line]",
)
@click.option("--model", "-m", help="Who answers.  [your newest promoted model, else --base]")
@click.option(
    "--max-tokens",
    default=64,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Longest answer.",
)
@click.option(
    "--base",
    default="nano",
    show_default=True,
    help="Base used where no model is named: nano, a folder, or a Hugging Face id.",
)
@json_option
def complete(
    file: Path,
    line: int,
    column: int | None,
    model: str | None,
    max_tokens: int,
    base: str,
    as_json: bool,
) -> None:
    """Let a model fill in FILE at one place; the file is not changed.

    What stands before the place is the prefix, what follows is the suffix. On an empty line
    the model writes that line.

    \b
    Examples:
      codetune complete app.py --line 42
      codetune complete app.py -n 42 -c 9 --max-tokens 32
      codetune complete app.py -n 42 -m myrepo:2 --json
    """
    from codetune.cli.terminal import print_json
    from codetune.serving.config import ServingOptions
    from codetune.serving.local import local_completer

    text = _read(file)
    offset, column = _place(text, line, column, file)
    completer = local_completer(ServingOptions.load({"base": base}, "complete"))
    try:
        answer = asyncio.run(
            _fill(completer, text, offset, model, max_tokens, file, (line, column))
        )
    finally:
        completer.engine.close()
    if as_json:
        print_json(asdict(answer))
    else:
        _show(text, offset, answer)


def fim_at(file: Path, line: int, column: int | None) -> Fim:
    """A place in a file as a prompt.

    Raises:
        SourceError, ConfigError: the file cannot be read, or has no such place.
    """
    from codetune.serving.query import Fim

    text = _read(file)
    offset, _ = _place(text, line, column, file)
    path, repo = _names(file)
    return Fim(text[:offset], text[offset:], path=path, repo=repo)


def _read(file: Path) -> str:
    from codetune.errors import SourceError

    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{file} is not UTF-8 text.") from error
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}.") from error


def _place(text: str, line: int, column: int | None, file: Path) -> tuple[int, int]:
    """The offset of a line and column, and the column."""
    from codetune.errors import ConfigError

    lines = text.split("\n")
    if line > len(lines):
        raise ConfigError(f"--line {line}: {file} has {len(lines)} lines.")
    content = lines[line - 1].removesuffix("\r")
    column = len(content) + 1 if column is None else column
    if column > len(content) + 1:
        raise ConfigError(f"--column {column}: line {line} has {len(content)} characters.")
    return sum(len(before) + 1 for before in lines[: line - 1]) + column - 1, column


async def _fill(
    completer: Completer,
    text: str,
    offset: int,
    model: str | None,
    max_tokens: int,
    file: Path,
    place: tuple[int, int],
) -> Completion:
    from codetune.serving.query import Fim, Query

    completer.load(model)
    started = time.perf_counter()
    path, repo = _names(file)
    prompt = Fim(text[:offset], text[offset:], path=path, repo=repo)
    query = Query([prompt], model=model, max_tokens=max_tokens, temperature=0.0)
    answers = await completer.start(query)
    async for piece in answers.generations[0]:
        if piece.finish:
            return Completion(
                model=answers.model,
                file=str(file),
                line=place[0],
                column=place[1],
                text=piece.text,
                finish_reason=piece.finish.reason,
                prompt_tokens=answers.prompt_tokens,
                completion_tokens=piece.finish.tokens,
                seconds=round(time.perf_counter() - started, 3),
            )
    raise AssertionError("a generation ends with a finish or an error")


def _names(file: Path) -> tuple[str, str | None]:
    """The file's path in its repository, and the repository's folder name.

    A tuned model knows its own repository's name; for others the folder's says something.
    """
    full = file.resolve()
    for folder in full.parents:
        if (folder / ".git").exists():
            return full.relative_to(folder).as_posix(), folder.name
    return file.name, full.parent.name or None


def _show(text: str, offset: int, answer: Completion) -> None:
    """The lines around the place with the completion in colour."""
    before = text[:offset].split("\n")[-_CONTEXT - 1 :]
    after = text[offset:].split("\n")[: _CONTEXT + 1]
    filled = click.style(answer.text, fg="green", bold=True) if answer.text else ""
    click.echo("\n".join(before) + filled + "\n".join(after))
    note = f"{answer.model} · {answer.completion_tokens} tokens · {answer.seconds:.2f} s"
    click.secho(
        f"\n{note}" + ("" if answer.text else " · nothing to fill in here"), dim=True, err=True
    )
