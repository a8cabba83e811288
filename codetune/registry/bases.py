"""The bases that the registry lists beside the tuned models."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from codetune.errors import CodetuneError
from codetune.models.load import BaseModel, resolve_base, weight_files
from codetune.models.places import EMBEDDED
from codetune.records import ModelCard


def is_base(name: str) -> bool:
    """Is `name` reserved for a base that comes with codetune?"""
    return name in EMBEDDED


def base_cards(models: Iterable[ModelCard]) -> tuple[list[ModelCard], dict[str, CodetuneError]]:
    """Cards of the embedded bases and of those that `models` were tuned from.

    The others are not looked up here: that could mean the network. An embedded one that is
    damaged comes back with its error instead.
    """
    cards: list[ModelCard] = []
    damaged: dict[str, CodetuneError] = {}
    for name, folder in EMBEDDED.items():
        if not folder.is_dir():
            continue  # an installation without the embedded model
        try:
            base = _resolved(name, _changed(folder))
        except CodetuneError as error:
            damaged[name] = error
            continue
        created = datetime.fromtimestamp((folder / "config.json").stat().st_mtime, UTC)
        cards.append(_card(base.name, base.digest, created.isoformat(timespec="seconds")))
    for model in models:
        if model.base not in EMBEDDED and all(card.name != model.base for card in cards):
            cards.append(_card(model.base, model.base_digest, model.created))
    return cards, damaged


def _card(name: str, digest: str, created: str) -> ModelCard:
    return ModelCard(
        id=name,
        name=name,
        version=0,
        kind="base",
        base=name,
        base_digest=digest,
        method="base",
        created=created,
        promoted=False,
        config_digest="",
        data_digest="",
        commits={},
        licences={},
    )


def _changed(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells that a base's files are still those whose digest is known."""
    files = [folder / "config.json", *weight_files(folder)]
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)


@lru_cache(maxsize=8)
def _resolved(name: str, changed: tuple[tuple[str, int, int], ...]) -> BaseModel:
    """`resolve_base`, whose digest reads the whole weights, once per state of the files."""
    return resolve_base(name)
