"""Whose models the registry's are. The cards and the weights stay on disk."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import ID, NAME, Base, new_id
from codetune.store.owned import Owned


class Model(Owned, Base):
    """The owner of a name in the registry, and so of all its versions."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("mdl"))
    name: Mapped[str] = mapped_column(NAME, unique=True)  # as in the registry, without a version
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)  # label, description, origin …
