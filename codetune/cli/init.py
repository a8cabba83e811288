"""`codetune init`: a codetune.yaml that explains itself."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from pydantic import BaseModel


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("codetune.yaml"))
@click.option("--force", is_flag=True, help="Write over an existing file.")
def init(file: Path, force: bool) -> None:
    """Write FILE (codetune.yaml) with every option, its default and what it does.

    \b
    Examples:
      codetune init
      codetune init team.yaml && codetune tune . --config team.yaml
    """
    from codetune.errors import ConfigError
    from codetune.project import ProjectConfig

    if file.exists() and not force:
        raise ConfigError(f"{file} exists already.", advice="Use --force to write over it.")
    try:
        file.write_text(explain(ProjectConfig))
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.") from error
    click.echo(f"Wrote {file}.  Next: codetune tune . --config {file}")


def explain(options: type[BaseModel]) -> str:
    """YAML text: every option commented out at its default, under its documentation."""
    lines = [
        "# Every option of codetune at its default. Remove the '#' before a name to change it.",
        "# An unknown key is refused, so a typo never becomes a silent default.",
        "",
    ]
    lines += _section(options, indent=0)
    return "\n".join(lines) + "\n"


def _section(options: type[BaseModel], indent: int) -> list[str]:
    from pydantic import BaseModel

    pad = "  " * indent
    lines: list[str] = []
    for name, field in options.model_fields.items():
        annotation: Any = field.annotation
        lines += _comment(field.description or "", f"{pad}# ")
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            lines += [f"{pad}{name}:", *_section(annotation, indent + 1), ""]
        else:
            for element in get_args(annotation):
                if isinstance(element, type) and issubclass(element, BaseModel):
                    lines += _keys(element, pad)
            lines += [f"{pad}#{name}: {_flow(field.get_default(call_default_factory=True))}"]
    return lines


def _keys(element: type[BaseModel], pad: str) -> list[str]:
    """What each element of a list may say; there is no element by default."""
    lines = [f"{pad}# Each has these keys:"]
    for name, field in element.model_fields.items():
        default = field.get_default(call_default_factory=True)
        usual = "needed" if field.is_required() else _flow(default)
        lines += _comment(f"{name} ({usual}): {field.description}", f"{pad}#   ")
    return lines


def _comment(text: str, lead: str) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent=lead, subsequent_indent=lead)


def _flow(value: Any) -> str:
    import yaml
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple | frozenset | set):
        value = sorted(value) if not isinstance(value, tuple) else list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
