"""The secret that logins are signed with: made once, read by nobody else."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from codetune.errors import StoreError

FILE = "signing.key"


def signing_secret(home: Path) -> str:
    """The secret in `home`, made when there is none; two servers that start at once agree.

    Servers on several machines need the same file.

    Raises:
        StoreError: others can read it, or it cannot be read or written.
    """
    path = home / FILE
    try:
        if not path.exists():
            _make(path)
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StoreError(
                f"{path} can be read by others: whoever has it can be anybody here.",
                advice=f"Delete it (everybody logs in again), or: chmod 600 {path}",
            )
        found = path.read_text().strip()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be used: {error.strerror}.", advice="It belongs to the server's user."
        ) from error
    if len(found) < 32:
        raise StoreError(f"{path} is damaged.", advice="Delete it: everybody logs in again.")
    return found


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{FILE}.{secrets.token_hex(8)}")
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
