"""A set of training data: one file, or a folder as the datasets library or the hub lays it out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codetune.dataset.formats.containers import rows_of
from codetune.dataset.formats.layouts import (
    Fields,
    Layout,
    check_columns,
    layout_of,
    usable_columns,
)
from codetune.dataset.formats.problems import Problems, RowError
from codetune.dataset.formats.rows import File, Row
from codetune.errors import DatasetError
from codetune.records import Example, Provenance

_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".md")
_OTHER_SPLITS = re.compile(r"(^|[-_./])(test|validation|valid|val|dev|eval)([-_./]|$)")
_TRAIN = re.compile(r"(^|[-_./])train([-_./]|$)")
_NOT_ROWS = {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"}


def read_set(
    path: Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    name: str = "",
    licence: str = "unknown",
    problems: Problems | None = None,
) -> Iterator[Example]:
    """The examples of a file or folder, one after the other, whatever its size.

    An example's `source` names the set (`repo`), the file (`path`) and the row (`span`); its id
    comes from its content alone, so that it stays the same when rows move. Rows that cannot be
    used are added to `problems`; without that, the first ones are raised.

    Raises:
        DatasetError: it cannot be read, no format fits, or there are too many problems.
    """
    check_columns(columns or {})
    own = problems is None
    problems = problems or Problems()
    wanted = usable_columns(columns or {})
    for place in files_of(path):
        layout: Layout | None = None
        file = File(place, place.name, encoding, wanted, problems)
        for row in rows_of(file):
            try:
                here = layout or layout_of(row.values, columns or {}, format)
            except DatasetError as error:
                raise DatasetError(f"{place}: {error.message}", advice=error.advice) from error
            try:
                value = here.read(Fields(row.values, columns or {}))
            except RowError as error:
                file.bad(row.number, error.field, error.message)
                continue
            layout = here  # not before a row could be read with it
            yield _example(value, row, name or path.stem, file.name, licence)
    if own:
        problems.refuse()


def files_of(path: Path) -> list[Path]:
    """The files of a set in order: of a folder, those of its training split.

    Raises:
        DatasetError: there is nothing to read, or a folder has splits and none is for training.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist.")
    if (path / "dataset_dict.json").is_file():
        return files_of(_training_split(path))
    if (path / "state.json").is_file():
        return _saved(path)
    found = sorted(
        file
        for file in path.rglob("*")
        if file.name.removesuffix(".gz").endswith(_SUFFIXES)
        and file.name not in _NOT_ROWS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and not file.name.upper().startswith(("README", "LICENSE"))
    )
    training = [file for file in found if _TRAIN.search(str(file.relative_to(path)))]
    others = [file for file in found if _OTHER_SPLITS.search(str(file.relative_to(path)))]
    chosen = training or [file for file in found if file not in others]
    if not chosen:
        raise DatasetError(
            f"{path} holds no training data.",
            advice="Known: folders of the datasets library (save_to_disk), and folders of "
            f"{', '.join(_SUFFIXES)} files.",
        )
    return chosen


def digest_of_set(path: Path) -> str:
    """SHA-256 (hexadecimal) over the names and bytes of a set's files."""
    total = hashlib.sha256()
    for file in files_of(path):
        total.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def example_id(value: list[dict[str, str]] | str) -> str:
    """32 hexadecimal digits that depend on the content alone."""
    kept: Any = value
    if not isinstance(value, str):
        kept = [[message["role"], message["content"]] for message in value]
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def _example(
    value: list[dict[str, str]] | str, row: Row, name: str, file: str, licence: str
) -> Example:
    text = isinstance(value, str)
    return Example(
        id=example_id(value),
        stream="ntp" if text else "sft",
        source=Provenance(name, None, file, (row.number, row.number), licence),
        text=value if isinstance(value, str) else None,
        messages=None if isinstance(value, str) else tuple(value),
        ends_file=text,
    )


def _training_split(path: Path) -> Path:
    splits = _json_object(path / "dataset_dict.json").get("splits", [])
    names = [name for name in map(str, splits) if Path(name).name == name]
    if "train" in names:
        return path / "train"
    if len(names) == 1:
        return path / names[0]
    raise DatasetError(
        f"{path} has no split 'train'; it has {', '.join(names) or 'none'}.",
        advice=f"Name one of its folders: {path / names[0] if names else path}",
    )


def _saved(path: Path) -> list[Path]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote."""
    state = _json_object(path / "state.json")
    if state.get("_indices_data_files"):
        raise DatasetError(
            f"{path} holds a selection of rows (indices), not rows.",
            advice="Write it with dataset.flatten_indices().save_to_disk(…).",
        )
    try:
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path / 'state.json'} names no data files.") from error
    for name in names:
        if Path(name).name != name or not (path / name).is_file():
            raise DatasetError(f"{path} lacks its file '{name}'.", advice="Save the set again.")
    return [path / name for name in names]


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path} holds no object.")
    return value
