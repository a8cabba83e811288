"""Passwords: Argon2id with the costs of RFC 9106's second recommendation (64 MiB)."""

from __future__ import annotations

import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from codetune.errors import ConfigError

SHORTEST, LONGEST = 10, 256  # characters
_AT_ONCE = threading.BoundedSemaphore(4)  # each takes 64 MiB while it is checked
_HASHER = PasswordHasher()


def hashed(password: str, name: str) -> str:
    """The hash to keep.

    Raises:
        ConfigError: it is too short, too long, or the name.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise ConfigError(f"A password has {SHORTEST} to {LONGEST} characters.")
    if name.lower() in password.lower() and len(password) < len(name) + SHORTEST:
        raise ConfigError("The password is little more than the name.", advice="Choose another.")
    with _AT_ONCE:
        return _HASHER.hash(password)


def matches(password: str, kept: str | None) -> bool:
    """Is it the password? Where there is none to compare with, it takes as long to say no."""
    if len(password) > LONGEST:
        return False
    with _AT_ONCE:
        try:
            return _HASHER.verify(kept or _nobodys(), password) and kept is not None
        except (VerificationError, InvalidHashError):
            return False


def is_outdated(kept: str) -> bool:
    """Was it made with other costs than today's?"""
    return _HASHER.check_needs_rehash(kept)


@cache
def _nobodys() -> str:
    return _HASHER.hash("nobody has this password")
