"""A stage's output folder: written beside its place, renamed when finished, never changed.

The folder's name is the digest of the stage's options and inputs, so a re-run finds what is
already done, and a crash leaves only a `.partial` folder behind. `manifest.json` is written
last: a folder without it is not an artifact.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codetune import __version__
from codetune.errors import ArtifactError

MANIFEST = "manifest.json"
_OTHER_HOME = "Set CODETUNE_HOME to a folder of your own."
FORMAT = 1  # raised when a stage's files change meaning, so that old folders are not reused


def home() -> Path:
    """`$CODETUNE_HOME`, by default `~/.codetune`: everything codetune ever writes is below it."""
    return Path(os.environ.get("CODETUNE_HOME") or Path.home() / ".codetune").expanduser()


def digest_of(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    # A path that is not UTF-8 comes as lone surrogates.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder and what its manifest says."""

    path: Path
    stage: str
    digest: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    summary: Mapping[str, Any] = field(default_factory=dict)

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def open_artifact(path: Path) -> Artifact:
    """Read a finished stage's folder.

    Raises:
        ArtifactError: the folder has no manifest, or one that cannot be read.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        return Artifact(
            path=path,
            stage=manifest["stage"],
            digest=manifest["digest"],
            config=manifest["config"],
            inputs=manifest["inputs"],
            summary=manifest["summary"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{path} is not a finished stage: {error}.", advice="Delete the folder and run again."
        ) from error


def run_stage(
    stage: str,
    folder: Path,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    make: Callable[[Path], Mapping[str, Any]],
    *,
    resumable: bool = False,
) -> Artifact:
    """Make the artifact of `stage` below `folder`, or return the finished one.

    `make` fills an empty folder and returns the summary for the manifest. With `resumable` it
    is given what an interrupted run left behind, instead. A second process that wants the same
    artifact waits for the first.

    Raises:
        ArtifactError: the disk is full or the folder cannot be written.
    """
    digest = digest_of({"stage": stage, "format": FORMAT, "config": config, "inputs": inputs})
    final, partial = folder / digest, folder / f".{digest}.partial"
    if (final / MANIFEST).exists():
        return open_artifact(final)
    with _writing_errors(folder):
        _make_folder(folder)
        with _locked(folder / f".{digest}.lock"):
            if (final / MANIFEST).exists():
                return open_artifact(final)
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            summary = make(partial)
            manifest = {
                "stage": stage,
                "digest": digest,
                "format": FORMAT,
                "codetune": __version__,
                "config": config,
                "inputs": inputs,
                "summary": summary,
            }
            write_json(partial / MANIFEST, manifest)
            partial.rename(final)
    return open_artifact(final)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        # The home is a file, or below one, or in /proc, where nothing can be made.
        raise ArtifactError(
            f"The folder {folder} cannot be made: {error.strerror}.", advice=_OTHER_HOME
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=str)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock that the kernel releases even after `kill -9`."""
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it may have removed the file meanwhile: then this lock locks nothing.
            try:
                if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    continue
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


@contextmanager
def _writing_errors(folder: Path) -> Iterator[None]:
    """Name the errors of a disk that is full or cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArtifactError(
                f"The disk that holds {folder} is full.",
                advice="Free some space, or set CODETUNE_HOME to another disk, and run again: "
                "finished stages are kept.",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise ArtifactError(
                f"{error.filename or folder} cannot be written: {error.strerror}.",
                advice=_OTHER_HOME,
            ) from error
        if error.errno == errno.EFBIG:
            raise ArtifactError(
                f"A file of {folder} cannot be written: {error.strerror}.",
                advice="A limit on the size of files is in the way: look at `ulimit -f`, or set "
                "CODETUNE_HOME to another disk. Finished stages are kept.",
            ) from error
        raise
