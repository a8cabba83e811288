"""What Axolotl's `datasets:` names, as sets of our mix.

Keys as in SFTDataset and UserDefinedPrompterType of Axolotl's configuration reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codetune.bridges.keys import flat
from codetune.dataset.formats.layouts import LAYOUTS
from codetune.errors import ConfigError

_FORMATS = {
    "alpaca": "alpaca",
    "sharegpt": "sharegpt",
    "chat_template": "messages",
    "completion": "text",
    "input_output": "prompt-completion",
}
# Its name of what holds the path, where that is a kind of file and not a place.
_KINDS_OF_FILES = ("json", "csv", "text", "parquet", "arrow")
# What each of its keys names a column for; a chat's messages are `conversations` in ShareGPT's.
_FIELDS = {
    "field": ("text",),
    "field_messages": ("messages", "conversations"),
    "field_instruction": ("instruction",),
    "field_input": ("input",),
    "field_output": ("output",),
    "field_system": ("system",),
}


def read(sets: Any, where: str) -> tuple[list[dict[str, Any]] | None, list[str]]:
    """The sets of our mix for `datasets:`, and its keys that have no meaning here.

    Raises:
        ConfigError: it is no list of sets, or one of them names no path.
    """
    if sets is None:
        return None, []
    if not isinstance(sets, list):
        raise ConfigError(f"{where}: option 'datasets' cannot be {sets!r}: not a list.")
    found: list[dict[str, Any]] = []
    ignored: list[str] = []
    for number, entry in enumerate(sets):
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where}: datasets[{number}] names no path.")
        name = f"datasets[{number}]"
        paths, used = _paths(entry, name, where)
        kind, columns, mapped = _columns(entry)
        shared = {"format": kind, "columns": columns, "weight": 1 / len(paths)}
        found += [
            {"name": f"set-{len(found) + place}", "path": path, **shared}
            for place, path in enumerate(paths, 1)
        ]
        ignored += [
            f"{name}.{key}"
            for key, value in flat(entry)
            if key not in (*used, *mapped) and value is not None and value not in ("", [], {})
        ]
    return found, ignored


def _paths(entry: Mapping[str, Any], name: str, where: str) -> tuple[list[Any], tuple[str, ...]]:
    """The files or folders of one entry, and the keys that said so."""
    path: Any = entry.get("path")
    used: tuple[str, ...] = ("path", "ds_type")
    if path in _KINDS_OF_FILES:
        path, used = entry.get("data_files"), (*used, "data_files")
    paths = path if isinstance(path, list) else [path]
    if not paths or not all(paths):
        raise ConfigError(f"{where}: {name} names no path.")
    return paths, used


def _columns(entry: Mapping[str, Any]) -> tuple[str, dict[str, str], set[str]]:
    """The format of one entry, its names of columns, and the keys that said so.

    A mapping as `type:` is a prompt of its own; the columns that it names are an instruction's.
    """
    kind = entry.get("type") or "alpaca"
    if isinstance(kind, Mapping):
        given = {key: value for key, value in flat(entry) if key.startswith("type.")}
        format, mapped = "alpaca", set[str]()
    else:
        given = {str(key): value for key, value in entry.items()}
        format = _FORMATS.get(str(kind).partition(":")[0].partition(".")[0], "auto")
        mapped = {"type"} if format != "auto" else set()
    fields = [field for one in LAYOUTS.values() if one.name == format for field in one.fields]
    columns = {}
    for key, value in given.items():
        ours = _FIELDS.get(key.removeprefix("type."), ())
        for field in [one for one in ours if one in fields or format == "auto"][:1]:
            if isinstance(value, str) and value:
                columns[field] = value
                mapped.add(key)
    return format, columns, mapped
