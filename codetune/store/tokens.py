"""Personal API tokens."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import ID, NAME, Base, new_id, now


class Token(Base):
    """A token's hash; the token itself is shown once and kept nowhere."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("tok"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(NAME)
    # SHA-256: a token has 256 random bits, so there is nothing that a slow hash could protect.
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(16))  # its first characters, to tell tokens apart
    scopes: Mapped[list[str]]
    created: Mapped[datetime] = mapped_column(default=now)
    expires: Mapped[datetime | None]
    revoked: Mapped[datetime | None]
    last_used: Mapped[datetime | None]
