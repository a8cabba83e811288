"""Scores that users have asked for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import ID, NAME, Base, new_id
from codetune.store.owned import Owned


class Evaluation(Owned, Base):
    """A scorecard of a model."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("evl"))
    model: Mapped[str] = mapped_column(NAME)  # "name:version"
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    location: Mapped[str] = mapped_column(default="")
    scorecard: Mapped[dict[str, Any]] = mapped_column(default=dict)
