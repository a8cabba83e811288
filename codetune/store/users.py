"""Accounts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import ID, Base, Dated, new_id

# The account of whoever uses this machine without logging in. It has no password, and no token
# can be made for it.
LOCAL_USER = "usr_local"
ROLES = ("admin", "member", "viewer")


class User(Dated, Base):
    """Somebody who may log in."""

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("role in ('admin', 'member', 'viewer')", "role"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("usr"))
    name: Mapped[str] = mapped_column(String(64), unique=True)  # lower case
    password_hash: Mapped[str | None]  # Argon2id; None: only tokens
    role: Mapped[str] = mapped_column(String(16), default="member")
    disabled: Mapped[bool] = mapped_column(default=False)
    # Raised by a new password and when the account is disabled: older logins end.
    epoch: Mapped[int] = mapped_column(default=0)
    last_login: Mapped[datetime | None]
