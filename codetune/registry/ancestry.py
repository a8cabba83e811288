"""What a model has learned before it is tuned again: the datasets of those it was made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from codetune.artifacts import Artifact, open_artifact
from codetune.errors import ArtifactError
from codetune.records import ModelCard
from codetune.registry.bases import is_base
from codetune.registry.cards import Registry
from codetune.registry.files import MODEL

_DIGEST = re.compile(r"[0-9a-f]{16}")


def learned(registry: Registry, name: str, projects: Path) -> tuple[list[Artifact], list[str]]:
    """The datasets that the model `name` and those below it were tuned on; none for a base.

    The second list names the models whose dataset is not below `projects` any more.
    """
    found: list[Artifact] = []
    missing: list[str] = []
    for card in _line(registry, name):
        places = projects.glob(f"*/datasets/{card.data_digest}")
        try:
            if not _DIGEST.fullmatch(card.data_digest):
                raise ArtifactError(f"'{card.data_digest}' is no dataset.")
            found.append(open_artifact(next(places)))
        except (StopIteration, ArtifactError):
            missing.append(card.id)
    return found, missing


def _line(registry: Registry, name: str) -> Iterator[ModelCard]:
    """The model called `name`, then those that it was made of."""
    cards = [card for card in registry.list() if card.kind != "base"]
    if is_base(name) or all(name not in (card.id, card.name) for card in cards):
        return
    left = {card.id: card for card in cards}
    # An adapter on a whole model of ours names that one's folder as its base.
    folders = {str((registry.folder(card) / MODEL).resolve()): card.id for card in cards}
    waiting = [registry.get(name).id]
    while waiting:
        one = waiting.pop()
        card = left.pop(folders.get(one, one), None)
        if card is not None:
            yield card
            waiting += card.parents
