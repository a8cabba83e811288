"""The secrets of a server: each made once, in a file of its own that nobody else reads."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from codetune.errors import StoreError

FILE = "signing.key"  # logins are signed with it
SEALING = "secrets.key"  # users' secrets are encrypted with it


def signing_secret(home: Path) -> str:
    """What logins are signed with, made when there is none; two servers that start agree.

    Servers on several machines need the same file.

    Raises:
        StoreError: others can read it, or it cannot be read or written.
    """
    return _secret(
        home / FILE, "whoever has it can be anybody here", "Delete it: everybody logs in again."
    )


def sealing_secret(home: Path, *, make: bool) -> str:
    """What users' secrets are encrypted with; as `signing_secret`.

    Raises:
        StoreError: also where it is missing, and not to be made.
    """
    if not make and not (home / SEALING).exists():
        raise StoreError(
            f"{home / SEALING} is missing: without it no secret of a user can be read.",
            advice="Bring it back from where it is kept beside the backups.",
        )
    return _secret(
        home / SEALING,
        "whoever has it and the database has every user's secrets",
        "Bring it back from where it is kept; or delete it: users set their secrets again.",
    )


def _secret(path: Path, danger: str, advice: str) -> str:
    try:
        if not path.exists():
            _make(path)
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StoreError(
                f"{path} can be read by others: {danger}.", advice=f"{advice} Or: chmod 600 {path}"
            )
        found = path.read_text().strip()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be used: {error.strerror}.", advice="It belongs to the server's user."
        ) from error
    if len(found) < 32:
        raise StoreError(f"{path} is damaged.", advice=advice)
    return found


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        os.link(new, path)
    except FileExistsError:
        pass  # another server was faster: its secret counts
    finally:
        new.unlink(missing_ok=True)
