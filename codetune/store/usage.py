"""What each user has asked of each model, by day."""

from __future__ import annotations

from datetime import date

from sqlalchemy import Date, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import BIGINT, NAME, Base


class Usage(Base):
    """Requests and tokens of one day (UTC)."""

    __tablename__ = "usage"

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    owner_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    model: Mapped[str] = mapped_column(NAME, primary_key=True)
    requests: Mapped[int] = mapped_column(BIGINT, default=0)
    prompt_tokens: Mapped[int] = mapped_column(BIGINT, default=0)
    completion_tokens: Mapped[int] = mapped_column(BIGINT, default=0)
