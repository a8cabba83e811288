"""Scorecards: of every version that somebody may see, whatever made it."""

from __future__ import annotations

from codetune.errors import NotFoundError
from codetune.records import ModelCard
from codetune.registry.access import Actor
from codetune.workspace.pages import Page, Window, slice_of
from codetune.workspace.user_models import UserModels
from codetune.workspace.workspace import Workspace

_ALL = Window(limit=1_000_000)


class Evaluations:
    """The scorecards of one server's models."""

    def __init__(self, workspace: Workspace) -> None:
        self._models = UserModels(workspace)

    def list(
        self,
        actor: Actor,
        window: Window,
        model_id: str | None = None,
        promoted: bool | None = None,
    ) -> Page[ModelCard]:
        """What the actor may see, the newest first.

        Raises:
            NotFoundError: `model_id` is no model of theirs.
        """
        models = (
            self._models.list(actor, _ALL).items
            if model_id is None
            else [self._models.get(actor, model_id)]
        )
        cards = [card for model in models for card in model.versions]
        cards = [card for card in cards if promoted is None or card.promoted == promoted]
        cards.sort(key=lambda card: (card.created, card.id), reverse=True)
        return slice_of(cards, window)

    def get(self, actor: Actor, model_id: str, version: int) -> ModelCard:
        """One version's.

        Raises:
            NotFoundError: there is none of the actor's.
        """
        for card in self._models.get(actor, model_id).versions:
            if card.version == version:
                return card
        raise NotFoundError(f"There is no version {version} of model '{model_id}'.")
