"""Users' secrets at rest: encrypted with a key that is neither in the database nor in a backup.

AES-256-GCM (NIST SP 800-38D) with a random nonce; the key is derived from `secrets.key` by
HKDF-SHA256 (RFC 5869). What a secret is for is authenticated with it: a row that is copied to
another user does not open.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

from codetune.accounts.secret import sealing_secret
from codetune.errors import StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION, _NONCE = b"\x01", 12  # bytes


class Vault:
    """Seals and opens texts with the key of one home."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def seal(self, text: str, purpose: str) -> str:
        """`text`, encrypted for `purpose`; the key is made if there is none.

        Raises:
            StoreError: the key cannot be used.
        """
        nonce = os.urandom(_NONCE)
        cipher = _cipher(sealing_secret(self._home, make=True))
        sealed = cipher.encrypt(nonce, text.encode(), purpose.encode())
        return base64.urlsafe_b64encode(_VERSION + nonce + sealed).decode()

    def open(self, sealed: str, purpose: str) -> str:
        """The text that was sealed for `purpose`.

        Raises:
            StoreError: the key is missing or another one, or this was sealed for something else.
        """
        from cryptography.exceptions import InvalidTag

        cipher = _cipher(sealing_secret(self._home, make=False))
        try:
            data = base64.urlsafe_b64decode(sealed)
            if data[:1] != _VERSION:
                raise ValueError("it is of another version")
            start = 1 + _NONCE
            return cipher.decrypt(data[1:start], data[start:], purpose.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"The secret '{purpose}' does not open with this server's key.",
                advice="Bring the key back that it was set with, or set the secret again.",
            ) from error


def _cipher(secret: str) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(SHA256(), 32, salt=None, info=b"codetune settings").derive(secret.encode())
    return AESGCM(key)
