"""Settings of the server and of its users."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import NAME, Base, now
from codetune.store.users import LOCAL_USER


class Setting(Base):
    """A value by name: of one user, or with the local user as owner, of the whole server."""

    __tablename__ = "settings"

    owner_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, default=LOCAL_USER
    )
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    value: Mapped[dict[str, Any]]  # {"value": …}; of a secret {"sealed": …}
    secret: Mapped[bool] = mapped_column(default=False)  # never returned
    updated: Mapped[datetime] = mapped_column(default=now, onupdate=now)
