"""The repositories, folders and archives that users have named."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import ID, NAME, Base, new_id
from codetune.store.owned import Owned


class Source(Owned, Base):
    """A place that training data comes from."""

    __tablename__ = "sources"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("src"))
    name: Mapped[str] = mapped_column(NAME)
    kind: Mapped[str] = mapped_column(String(32))  # git, folder, archive …
    location: Mapped[str]  # URL or path, without credentials
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(String(16), default="new")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)  # commit, counts, last job …
