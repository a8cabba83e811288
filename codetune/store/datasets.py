"""Training data that users have built or uploaded."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import BIGINT, ID, NAME, Base, new_id
from codetune.store.owned import Owned


class Dataset(Owned, Base):
    """A set of examples; `location` is below $CODETUNE_HOME and never a user's word."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("dst"))
    name: Mapped[str] = mapped_column(NAME)
    kind: Mapped[str] = mapped_column(String(32))  # upload, built
    format: Mapped[str] = mapped_column(String(32), default="")
    source_id: Mapped[str | None] = mapped_column(ForeignKey("sources.id", ondelete="SET NULL"))
    location: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64), default="")
    size: Mapped[int] = mapped_column(BIGINT, default=0)  # bytes
    rows: Mapped[int] = mapped_column(BIGINT, default=0)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
