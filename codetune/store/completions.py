"""Answers that were given, and what became of them in the editor."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import BIGINT, ID, NAME, Base, new_id, now


class Completion(Base):
    """An answer; prompt and text are kept only if the server's settings say so."""

    __tablename__ = "completions"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("cmpl"))
    at: Mapped[datetime] = mapped_column(default=now, index=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    model: Mapped[str] = mapped_column(NAME, index=True)
    dialect: Mapped[str] = mapped_column(String(32))
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)  # prompt, choices, language …


class CompletionEvent(Base):
    """What the editor said: seen, accepted, dismissed."""

    __tablename__ = "completion_events"

    id: Mapped[int] = mapped_column(BIGINT, primary_key=True)
    completion_id: Mapped[str] = mapped_column(
        ForeignKey("completions.id", ondelete="CASCADE"), index=True
    )
    at: Mapped[datetime] = mapped_column(default=now)
    kind: Mapped[str] = mapped_column(String(16))  # view, select, dismiss
    choice: Mapped[int] = mapped_column(default=0)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
