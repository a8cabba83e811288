"""What each user has asked of each model, by day."""

from __future__ import annotations

from datetime import date

from sqlalchemy import Date, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import BIGINT, NAME, Base


class Usage(Base):
    """Requests, tokens and seconds of one day (UTC), those that were cancelled included."""

    __tablename__ = "usage"

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    owner_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    model: Mapped[str] = mapped_column(NAME, primary_key=True)
    requests: Mapped[int] = mapped_column(BIGINT, default=0)
    prompt_tokens: Mapped[int] = mapped_column(BIGINT, default=0)
    completion_tokens: Mapped[int] = mapped_column(BIGINT, default=0)
    cancelled: Mapped[int] = mapped_column(BIGINT, default=0)  # of the requests
    seconds: Mapped[float] = mapped_column(default=0.0)  # of all requests together
    first_seconds: Mapped[float] = mapped_column(default=0.0)  # to the first tokens, together
    answered: Mapped[int] = mapped_column(BIGINT, default=0)  # requests that had a first token
