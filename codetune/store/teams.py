"""Teams, whose members share what is shared with the team."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import ID, Base, Dated, new_id, now


class Team(Dated, Base):
    """A group of users."""

    __tablename__ = "teams"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("team"))
    name: Mapped[str] = mapped_column(String(64), unique=True)


class Membership(Base):
    """A user in a team."""

    __tablename__ = "memberships"

    team_id: Mapped[str] = mapped_column(
        ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    created: Mapped[datetime] = mapped_column(default=now)
