"""Secrets among the settings, opened for use by whoever needs them."""

from __future__ import annotations

from codetune.accounts.vault import Vault
from codetune.store.settings import Setting

HUB_TOKEN = "hub.token"  # noqa: S105 - its name


def opened(vault: Vault, row: Setting) -> str:
    """The value of a secret, for whoever has to use it.

    Raises:
        StoreError: the server's key does not open it.
    """
    return vault.open(str(row.value["sealed"]), purpose_of(row.owner_id, row.name))


def purpose_of(owner_id: str, name: str) -> str:
    """What a secret is sealed for: a row of another user's, or of another name, does not open."""
    return f"{name} of {owner_id}"
