"""A backup of the database, the models and what was sent, in one file, made while all is in use.

The file is a tar of `database/<table>.jsonl`, `models/<version>/…`, `datasets/<id>/…` and
`uploads/<id>/…`, and last of `manifest.json` with the SHA-256 of everything before it: a file
that was cut off has none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from codetune import __version__
from codetune.errors import ConflictError, StoreError
from codetune.registry.files import model_folders
from codetune.registry.store import check_model, link_tree, locked, naming_errors, sync_tree
from codetune.store.database import Database
from codetune.store.dump import SENT, dump, is_in_use, load, sent_folders, snapshot

_MANIFEST, _FORMAT = "manifest.json", 1
_NAMES = re.compile(
    r"database/[a-z_]{1,64}\.jsonl|(?:models|datasets|uploads)/[0-9a-zA-Z_-]{1,64}/[^\0]{1,4000}"
)
_FORGOTTEN = 86_400.0  # seconds
_MOMENTS = 20  # that are tried
_COPIED = frozenset({"versions.json"})  # beside the models' folders


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    created: str
    codetune: str
    schema: str
    models: int
    files: Mapping[str, str]  # name → SHA-256
    size: int  # bytes


def back_up(database: Database, home: Path, file: Path) -> Backup:
    """Write the database, models and uploads of `home` to `file`, as they were at one moment.

    Servers and jobs go on meanwhile: files are held by hard links, the database by one
    transaction that only reads.

    Raises:
        ConflictError: there is such a file already.
        StoreError, RegistryError: the database or the models cannot be read.
    """
    if file.exists():
        raise ConflictError(f"{file} is there already.", advice="Name another file.")
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with naming_errors(home), _scratch(home, "backup") as held:
        _hold_sent(home, held)  # before: what a row of that moment names may be deleted after it
        lost: Set[str] = frozenset()
        for _ in range(_MOMENTS):
            with database.session() as session:
                with locked(home / "models"):
                    schema = snapshot(session)
                    absent = _hold_sent(home, held, sent_folders(session))
                    if not absent <= lost:  # sent and deleted since: later, there is no such row
                        lost = absent
                        continue
                    _hold_models(home, held)
                (held / "database").mkdir()
                dump(session, held / "database")
                break
        else:
            raise StoreError(
                "Files were sent and deleted at every moment that could have been kept.",
                advice="Back up again when less is going on.",
            )
        try:
            made = _write(held, partial, schema)
            if file.exists():
                raise ConflictError(f"{file} is there already.", advice="Name another file.")
            partial.rename(file)
        finally:
            partial.unlink(missing_ok=True)
    return made


def restore(database: Database, home: Path, file: Path, *, replace: bool = False) -> Backup:
    """Put a backup's database, models and uploads in the place of those that are here.

    Everything is read and checked before anything is touched; then all of it happens, or
    nothing. The server has to be stopped.

    Raises:
        ConflictError: there is something here already, and `replace` is not set.
        StoreError: the file is damaged or no backup, or a newer version made it.
        UnsafeModelError, ModelError: a model in it is none.
    """
    models = home / "models"
    with database.session() as session:
        used = is_in_use(session) or bool(model_folders(models))
    if used and not replace:
        raise ConflictError(
            f"There are accounts or models in {home} or {database.url} already.",
            advice="Restore into an empty CODETUNE_HOME, or replace all of it: --replace",
        )
    with naming_errors(home), _scratch(home, "restore") as new:
        found = _read(file, new)
        for name in ("models", *SENT):
            (new / name).mkdir(exist_ok=True)
            sync_tree(new / name)
        for folder in model_folders(new / "models"):
            check_model(folder / "model")
        (new / "old").mkdir()
        with locked(models), _exchanged(home, new, ("models", *SENT)) as exchange:
            load(database, new / "database", found.schema, exchange)
    return found


@contextmanager
def _exchanged(home: Path, new: Path, names: Sequence[str]) -> Iterator[Iterator[None]]:
    """Put the folders of `new` in the place of `home`'s when it is advanced; back again if what
    follows fails."""
    moved: list[tuple[Path, Path]] = []  # from, to

    def move(source: Path, target: Path) -> None:
        source.rename(target)
        moved.append((source, target))

    def step() -> Iterator[None]:
        for name in names:
            if (home / name).exists():
                move(home / name, new / "old" / name)
            move(new / name, home / name)
        yield

    exchange = step()
    try:
        yield exchange
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise


def _hold_models(home: Path, held: Path) -> None:
    for folder in model_folders(home / "models"):
        link_tree(folder, held / "models" / folder.name)
    for name in _COPIED:
        if (home / "models" / name).exists():
            shutil.copy2(home / "models" / name, held / name)


def _hold_sent(home: Path, held: Path, wanted: Set[str] | None = None) -> Set[str]:
    """Hold what people have sent, so far as it is not held; with `wanted`, that and no more.

    Returns what is wanted and not there.
    """
    for kind in SENT:
        there, here = home / kind, held / kind
        for folder in there.iterdir() if there.is_dir() else ():
            # A dot: of an upload that is under way.
            due = "." not in folder.name if wanted is None else f"{kind}/{folder.name}" in wanted
            if due and not (here / folder.name).exists():
                _hold(folder, here / folder.name)
        for folder in here.iterdir() if here.is_dir() else ():
            if wanted is not None and f"{kind}/{folder.name}" not in wanted:
                shutil.rmtree(folder)
    return {name for name in wanted or () if not (held / name).exists()}


def _hold(folder: Path, held: Path) -> None:
    """Link a folder, all of it or, if it is deleted meanwhile, nothing."""
    try:
        link_tree(folder, held)
    except FileNotFoundError:
        shutil.rmtree(held, ignore_errors=True)
    except shutil.Error as error:
        if any(Path(source).exists() for source, *_ in error.args[0]):
            raise
        shutil.rmtree(held)


def _write(held: Path, partial: Path, schema: str) -> Backup:
    files: dict[str, str] = {}
    paths = [path for path in sorted(held.rglob("*")) if path.is_file()]
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in paths:
                name = path.relative_to(held).as_posix()
                if name in _COPIED:
                    name = f"models/{name}"
                with path.open("rb") as file:
                    hashing = _Hashing(file)
                    tar.addfile(_member(name, path.stat().st_size), hashing)
                files[name] = hashing.hexdigest()
            values = {
                "format": _FORMAT,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "codetune": __version__,
                "schema": schema,
                "files": files,
            }
            data = json.dumps(values, indent=1).encode()
            tar.addfile(_member(_MANIFEST, len(data)), io.BytesIO(data))
        raw.flush()
        os.fsync(raw.fileno())
        return _backup(values, raw.tell())


def _read(file: Path, new: Path) -> Backup:
    """Unpack into `new`, checked; what is there when this fails is thrown away by the caller.

    Raises:
        StoreError
    """
    digests: dict[str, str] = {}
    manifest: Any = None
    try:
        with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() else None
                if source is None or manifest is not None:
                    raise ValueError(f"{member.name} has no place in it")
                if member.name == _MANIFEST:
                    manifest = json.loads(source.read(100_000_000))
                    continue
                target = new / _checked(member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                hashing = _Hashing(source)
                with target.open("xb") as out:
                    shutil.copyfileobj(hashing, out, 1 << 20)
                digests[member.name] = hashing.hexdigest()
            if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
                raise ValueError("it has no manifest of a kind that is known: it was cut off")
            if manifest["files"] != digests:
                differ = sorted(set(manifest["files"].items()) ^ set(digests.items()))
                raise ValueError(f"{differ[0][0]} is not what was backed up")
            return _backup(manifest, file.stat().st_size)
    except (OSError, tarfile.TarError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(
            f"{file} cannot be restored: {error}.",
            advice="Nothing has been changed. Is it a whole file of `codetune backup`?",
        ) from error


def _checked(name: str) -> str:
    plain = name == "models/versions.json" or _NAMES.fullmatch(name)
    if not plain or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name[:80]!r} has no place in it")
    return name


def _backup(values: Mapping[str, Any], size: int) -> Backup:
    files = dict(values["files"])
    versions = {name.split("/")[1] for name in files if re.match("models/[^/]+/", name)}
    return Backup(
        created=str(values["created"]),
        codetune=str(values["codetune"]),
        schema=str(values["schema"]),
        models=len(versions),
        files=files,
        size=size,
    )


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


class _Hashing(io.RawIOBase):
    """A file that is digested as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def _scratch(home: Path, purpose: str) -> Iterator[Path]:
    """A folder on the models' own disk, for hard links and renames; gone at the end."""
    for rest in home.glob(f".{purpose}-*"):
        if time.time() - rest.stat().st_mtime > _FORGOTTEN:  # of a process that was killed
            shutil.rmtree(rest)
    folder = home / f".{purpose}-{secrets.token_hex(8)}"
    folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
