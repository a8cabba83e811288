"""A set of training data: one file, or a folder as the datasets library or the hub lays it out."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
_TRAIN = frozenset({"train"})
_OTHER_SPLITS = frozenset({"test", "validation", "valid", "val", "dev", "eval"})
_SHARD = re.compile(r"-\d+-of-\d+$")
_NOT_ROWS = {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"}


class Files(NamedTuple):
    """The files of a set in order, and those beside them that are not of its training split."""

    read: list[Path]
    left_out: list[Path]


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
        DatasetError: it cannot be read, holds no rows, no format fits, or there are too many
            problems.
    """
    check_columns(columns or {})
    own = problems is None
    problems = problems or Problems()
    wanted, before, rows = usable_columns(columns or {}), problems.total, 0
    for place in files_of(path).read:
        layout: Layout | None = None
        file = File(place, _name_in(path, place), encoding, wanted, problems)
        for row in rows_of(file):
            rows += 1
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
    if not rows and problems.total == before:
        raise DatasetError(f"{path} holds no rows.", advice="Name a set with examples.")
    if own:
        problems.refuse()


def files_of(path: Path) -> Files:
    """The files of a set: of a folder, those of its training split.

    Raises:
        DatasetError: there is nothing to read, or a folder has splits and none is for training.
    """
    if path.is_file():
        return Files([path], [])
    if not path.is_dir():
        within = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DatasetError(f"{path} does not exist{within}.")
    if (path / "dataset_dict.json").is_file():
        return files_of(_training_split(path))
    if (path / "state.json").is_file():
        return Files(_saved(path), [])
    found = sorted(
        file
        for file in path.rglob("*")
        if file.name.removesuffix(".gz").endswith(_SUFFIXES)
        and file.name not in _NOT_ROWS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and not file.name.upper().startswith(("README", "LICENSE"))
    )
    chosen = _of_training(path, found)
    if found and not chosen:
        raise DatasetError(
            f"{path} holds only test and validation files.",
            advice=f"To train on one, name it: {found[0]}",
        )
    if not chosen:
        raise DatasetError(
            f"{path} holds no training data.",
            advice="Known: folders of the datasets library (save_to_disk), and folders of "
            f"{', '.join(_SUFFIXES)} files.",
        )
    return Files(chosen, [file for file in found if file not in chosen])


def left_out_of(path: Path) -> list[str]:
    """The files of a folder that are not read, since they are not of its training split."""
    return [_name_in(path, file) for file in files_of(path).left_out]


def not_read(left_out: list[str]) -> str:
    """Says of what `left_out_of` found that it is left out, and why."""
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return f"not read, since not of the training split: {', '.join(left_out[:5])}{more}"


def _name_in(path: Path, file: Path) -> str:
    """The file's path within the set at `path`: names alone are the same in several folders."""
    return file.name if file == path else file.relative_to(path).as_posix()


def _of_training(path: Path, found: list[Path]) -> list[Path]:
    """The files of the training split, or all that are of no other one.

    A file is of a split whose name it or one of its folders has: test.jsonl, test-2.jsonl,
    test-00000-of-00001.parquet. Of a longer name, a part is a split only where there are others:
    dolly-test.jsonl beside dolly-train.jsonl, but not unit-test.jsonl alone.
    """
    words = {file: _words(file) for file in found}
    sets = {
        (file.parent, said - _TRAIN) for file, said in words.items() if not said & _OTHER_SPLITS
    }

    def is_whole(file: Path, split: frozenset[str]) -> bool:
        folders = file.parent.relative_to(path).parts
        return not split.isdisjoint(folders) or (bool(words[file]) and words[file] <= split)

    def is_other(file: Path) -> bool:
        said = words[file]
        beside = bool(said & _OTHER_SPLITS) and (file.parent, said - _OTHER_SPLITS) in sets
        return beside or is_whole(file, _OTHER_SPLITS)

    rest = [file for file in found if not is_other(file)]
    return [file for file in rest if is_whole(file, _TRAIN)] or rest


def _words(file: Path) -> frozenset[str]:
    """The words of a file's name, without suffixes and numbers."""
    stem = Path(file.name.removesuffix(".gz")).stem
    words = re.split(r"[-_.]", _SHARD.sub("", stem))
    return frozenset(word for word in words if word and not word.isdigit())


def digest_of_set(path: Path) -> str:
    """SHA-256 (hexadecimal) over the names and bytes of a set's files."""
    total = hashlib.sha256()
    for file in files_of(path).read:
        total.update(os.fsencode(_name_in(path, file)) + b"\0")
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
