"""Answers to requests that may be sent twice."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import NAME, Base, now


class IdempotencyKey(Base):
    """The first answer under a client's key; the same request again gets it again."""

    __tablename__ = "idempotency_keys"

    owner_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(NAME, primary_key=True)
    request: Mapped[str] = mapped_column(String(64))  # SHA-256 of method, path and body
    status: Mapped[int | None]  # None: the first request is still being answered
    answer: Mapped[dict[str, Any] | None]
    created: Mapped[datetime] = mapped_column(default=now, index=True)
