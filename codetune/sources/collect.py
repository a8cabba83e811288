"""`collect`: every file of a source's past and present in one streamed table, with its commit.

The source is a git repository (path or address), a plain folder, or an archive. What is not
read is listed in `skipped.parquet` with a reason:

    symlink submodule special hard_link   not a file of its own
    ignored excluded                      .gitignore, or the options
    too_large                             longer than `largest_file`; never read into memory
    lfs_pointer missing                   the content is not in the repository
    unsafe_path repeated_name encrypted   members of archives
    unreadable                            no right to read it, or it vanished

With `commits`, small changes of the past are written to `commits.parquet` (see sources.commits).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import Artifact, run_stage, write_json
from codetune.progress import Progress
from codetune.records import Repository
from codetune.sources.items import Item, Source
from codetune.sources.opening import open_source
from codetune.tables import TableWriter
from codetune.workers import Workers

if TYPE_CHECKING:
    from codetune.sources.config import SourceOptions

VERSION = 1  # raised when the same inputs give other files
FILES = {
    "repo": "string",
    "path": "string",
    "content": "binary",
    "digest": "string",
    "in_past": "bool",
    "in_present": "bool",
    "previous_path": "string",
}
SKIPPED = {
    "path": "string",
    "reason": "string",
    "detail": "string",
    "bytes": "int64",
    "in_past": "bool",
    "in_present": "bool",
}
COMMITS = {
    "repo": "string",
    "commit": "string",
    "message": "string",
    "path": "string",
    "before": "binary",
    "after": "binary",
    "files": "int64",
}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def collect(
    source: str,
    options: SourceOptions,
    folder: Path,
    progress: Progress,
    *,
    allow_local: bool = True,
    sites: Collection[str] | None = None,
    workers: Workers | None = None,
) -> Artifact:
    """Read `source` (a path, an address or an archive) into `files.parquet`, the past first.

    `allow_local=False` refuses everything but remote addresses: for sources that other people
    name, on a server. With `sites`, addresses are only read on public hosts, and on these that lie
    inside the network; without, on all. `workers` are the processes of the stages that follow:
    they are told how much is coming.

    Raises:
        SourceError: it does not exist, is empty, or cannot be read.
        UnsafeSourceError: reading it would be an attack.
    """
    found = open_source(source, options, progress, allow_local=allow_local, sites=sites)
    found = replace(found, repository=_readable_repository(found.repository))
    return run_stage(
        "collect",
        folder,
        options.model_dump(mode="json", exclude={"timeout"}) | {"version": VERSION},
        {"repository": found.repository.name, "version": found.version},
        lambda partial: _write(
            found, partial, progress, options.commits or 0, workers or Workers()
        ),
    )


def _write(
    source: Source, folder: Path, progress: Progress, commits: int, workers: Workers
) -> dict[str, Any]:
    repository = source.repository
    write_json(folder / "repository.json", asdict(repository))
    skipped: Counter[str] = Counter()
    read = past = present = 0
    with (
        TableWriter(folder / "files.parquet", FILES) as files,
        TableWriter(folder / "skipped.parquet", SKIPPED) as rest,
        progress.task("collect", total=source.total, unit="files") as task,
    ):
        for found, content in source.read():
            task.advance(note=_readable(found.path))
            item = _without_content(found) if _is_lfs_pointer(content) else found
            if item.reason:
                skipped[item.reason] += 1
                rest.write(_skipped_row(item))
                continue
            read += len(content)
            workers.expect(read)
            past += item.in_past
            present += item.in_present
            files.write(_file_row(repository.name, item, content), size=len(content))
        count = files.count
    changes = _write_changes(source, folder, progress, commits) if commits else {}
    return {
        "repository": repository.name,
        "commit": repository.commit,
        "cutoff": repository.cutoff,
        "files": count,
        "bytes": read,
        "files_past": past,
        "files_present": present,
        "skipped": dict(skipped.most_common()),
        **changes,
    }


def _write_changes(source: Source, folder: Path, progress: Progress, most: int) -> dict[str, int]:
    """Write commits.parquet; a source without history has none."""
    if source.changes is None:
        return {"commits": 0, "changes": 0}
    seen: set[str] = set()
    with (
        TableWriter(folder / "commits.parquet", COMMITS) as table,
        progress.task("Reading commits", total=most, unit="changes") as task,
    ):
        for change in source.changes(most):
            task.advance()
            seen.add(change.commit)
            row = {"repo": source.repository.name} | asdict(change)
            row["path"] = _readable(change.path)
            table.write(row, size=len(change.before) + len(change.after))
        return {"commits": len(seen), "changes": table.count}


def _is_lfs_pointer(content: bytes) -> bool:
    return len(content) < 1024 and content.startswith(_LFS_POINTER)


def _without_content(item: Item) -> Item:
    return item.skip("lfs_pointer", "the content is in LFS storage")


def _file_row(repo: str, item: Item, content: bytes) -> dict[str, Any]:
    return {
        "repo": repo,
        "path": _readable(item.path),
        "content": content,
        "digest": hashlib.sha256(content).hexdigest(),
        "in_past": item.in_past,
        "in_present": item.in_present,
        "previous_path": None if item.previous_path is None else _readable(item.previous_path),
    }


def _skipped_row(item: Item) -> dict[str, Any]:
    return {
        "path": _readable(item.path),
        "reason": item.reason,
        "detail": _readable(item.detail),
        "bytes": item.size,
        "in_past": item.in_past,
        "in_present": item.in_present,
    }


def _readable_repository(repository: Repository) -> Repository:
    name, location = _readable(repository.name), _readable(repository.location)
    return replace(repository, name=name, location=location)


def _readable(path: str) -> str:
    """File names are bytes; those that are not UTF-8 become labels with replacement marks."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
