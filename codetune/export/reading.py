"""Modelfiles and GGUF files that are there already, read before they are handed on.

Source: Ollama's documentation of the Modelfile
(github.com/ollama/ollama/blob/main/docs/modelfile.mdx); the GGUF specification.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codetune.errors import ExportError
from codetune.export.modelfile import Spec

_LONGEST = 1 << 20  # bytes of a Modelfile
_SMALLEST_TENSOR, _SMALLEST_KEY = 24, 13  # bytes that each takes in a GGUF header, at least
_LINE = re.compile(r"(?P<word>[A-Za-z]+)[ \t]+(?P<rest>.*)", re.DOTALL)
_TEXTS = {"TEMPLATE": "template", "SYSTEM": "system", "LICENSE": "licence"}


def read_model(path: Path) -> tuple[Path, Spec]:
    """The GGUF file that `path` is, or that a Modelfile there names, and what else it says.

    Raises:
        ExportError: it is neither, or asks for what cannot be handed on.
    """
    try:
        if not path.is_file():  # nor a device, which has no end
            raise ExportError(f"{path.name} is no file that is there.")
        with path.open("rb") as stream:
            is_gguf = stream.read(4) == b"GGUF"
        if is_gguf:
            file, spec = path, Spec("", {})
        else:
            file, spec = _read_modelfile(path)
        check_gguf(file)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ of a user nobody knows
        raise ExportError(f"{path.name} cannot be read: {error}.") from error
    return file, spec


def check_gguf(file: Path) -> None:
    """Check a GGUF header's counts against the file's size, without reading further.

    Raises:
        ExportError: it is no GGUF file, or truncated.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(24)
    if len(head) == 24 and head[:4] == b"GGUF":
        version, tensors, keys = struct.unpack("<IQQ", head[4:])
        if version in (2, 3) and tensors * _SMALLEST_TENSOR + keys * _SMALLEST_KEY <= size:
            return
    raise ExportError(f"{file.name} is no GGUF file, or a damaged one.")


def _read_modelfile(path: Path) -> tuple[Path, Spec]:
    if path.stat().st_size > _LONGEST:
        raise ExportError(f"{path.name} is neither a GGUF file nor a Modelfile: it is too long.")
    file: Path | None = None
    texts: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    for number, word, rest in _instructions(path.read_text(encoding="utf-8")):
        if word == "FROM" and file is None:
            file = path.parent / Path(rest).expanduser()
        elif word in _TEXTS:
            texts[_TEXTS[word]] = rest
        elif word == "PARAMETER" and len(split := rest.split(maxsplit=1)) == 2:
            _add(parameters, split[0].lower(), _unquoted(split[1]))
        else:
            raise ExportError(
                f"{path.name}, line {number}: {word} cannot be used here.",
                advice="Known: FROM (one GGUF file), TEMPLATE, SYSTEM, PARAMETER, LICENSE.",
            )
    if file is None or not file.is_file():
        raise ExportError(
            f"{path.name} names no GGUF file that is there.",
            advice="Write its path after FROM; it begins in the Modelfile's folder.",
        )
    template, system = texts.get("template", ""), texts.get("system", "")
    return file, Spec(template, parameters, texts.get("licence", ""), system)


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, instruction, argument); an argument between triple quotes may have many lines."""
    lines = text.splitlines(keepends=True)
    number = 0
    while number < len(lines):
        begun, line = number + 1, lines[number]
        number += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        while line.count('"""') == 1 and number < len(lines):
            line += lines[number]
            number += 1
        found = _LINE.fullmatch(line.strip())
        if found is None or line.count('"""') == 1:
            raise ExportError(f"Line {begun} of the Modelfile is no instruction that ends.")
        yield begun, found["word"].upper(), _unquoted(found["rest"])


def _unquoted(text: str) -> str:
    text = text.strip()
    for quote in ('"""', '"'):
        if len(text) >= 2 * len(quote) and text.startswith(quote) and text.endswith(quote):
            return text[len(quote) : -len(quote)]
    return text


def _value(text: str) -> Any:
    """A parameter as JSON has it: a number where it is one."""
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if isinstance(number, int) or math.isfinite(number):  # JSON has no word for the others
            return number
    return {"true": True, "false": False}.get(text.lower(), text)


def _add(parameters: dict[str, Any], name: str, text: str) -> None:
    """`stop` is a list of texts, whatever they look like and however often it stands there."""
    if name == "stop":
        parameters.setdefault(name, []).append(text)
    else:
        parameters[name] = _value(text)
