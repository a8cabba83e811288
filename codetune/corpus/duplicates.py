"""Exact and near duplicates, told apart from versions.

The past is seen first, so that of two copies the past one stays: code that is "new" but is a
copy of old code must not be held-out code. A file's own past version is never its duplicate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from codetune.similarity import NearDuplicates

if TYPE_CHECKING:
    from codetune.similarity import Signature


class Duplicates:
    """What has been kept so far."""

    def __init__(self, threshold: float) -> None:
        self._exact: dict[str, list[str]] = {}  # digest → paths
        self._near = NearDuplicates(threshold) if threshold < 1 else None

    def find(
        self, digest: str, signature: Signature | None, version_of: str | None
    ) -> tuple[str, str] | None:
        """(reason, path of the kept one), or None for a text that is new.

        `version_of` is the path of this file's past version, if it has one.
        """
        for path in self._exact.get(digest, ()):
            if path != version_of:
                return "exact_duplicate", f"of {path}"
        if self._near is not None and signature is not None:
            for path, share in self._near.find_all(signature):
                if path != version_of:
                    return "near_duplicate", f"{share:.0%} like {path}"
        return None

    def add(self, path: str, digest: str, signature: Signature | None) -> None:
        """Remember a kept text."""
        self._exact.setdefault(digest, []).append(path)
        if self._near is not None and signature is not None:
            self._near.add(path, signature)
