"""Model folders on disk: checked, linked in, renamed into place, locked against each other."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codetune.errors import RegistryError, UnsafeModelError
from codetune.models.load import check_adapter, check_folder

NEW, GONE = ".new-", ".gone-"
# What a model folder may hold. Everything else could be code, or is opened by something that
# runs code: pickles, Python files, shared libraries.
_SAFE = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")
_SAFE_WITHOUT_SUFFIX = ("LICENSE", "NOTICE")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the registry: one writer at a time, released by the kernel even after `kill -9`."""
    with naming_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for rest in (*folder.glob(f"{NEW}*"), *folder.glob(f"{GONE}*")):
                shutil.rmtree(rest)  # of a process that died: nobody else holds the lock
            yield


@contextmanager
def naming_errors(folder: Path) -> Iterator[None]:
    """Name the errors of a disk that is full or cannot be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RegistryError(
            f"The registry in {folder} cannot be written: {error.strerror or error}.",
            advice="Free some space and run again: the finished stages are kept."
            if full
            else "Set CODETUNE_HOME to a folder of your own.",
        ) from error


def check_model(folder: Path) -> str:
    """Check a model folder without reading its weights; "adapter" or "full".

    Raises:
        ModelError: it is incomplete or damaged.
        UnsafeModelError: it holds something else than safetensors and plain text.
    """
    for path in sorted(folder.rglob("*")):
        known = path.suffix in _SAFE or path.name in _SAFE_WITHOUT_SUFFIX
        if path.is_symlink() or not (path.is_dir() or (path.is_file() and known)):
            raise UnsafeModelError(
                f"{path} may not be part of a model: only safetensors and plain text may.",
                advice="Pickles and code can run when they are opened. Remove the file.",
            )
    if (folder / "adapter_config.json").exists():
        check_adapter(folder)
        return "adapter"
    check_folder(folder)
    return "full"


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder, by hard links where the file system has them.

    A finished run is never changed, so sharing its bytes is safe; deleting either side keeps
    the other.
    """
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copy2(source, target)
    return target


def sync_tree(folder: Path) -> None:
    """Bring a folder's files and names to the disk, so that the rename is the last thing done."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
