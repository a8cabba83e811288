"""What belongs to somebody: the columns that the authorisation function reads."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from codetune.store import teams, users  # noqa: F401 - whom the foreign keys refer to
from codetune.store.base import Dated

VISIBILITIES = ("private", "team", "everyone")


class Owned(Dated):
    """A row with an owner, shown to a team or to everyone if the owner says so."""

    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    team_id: Mapped[str | None] = mapped_column(
        ForeignKey("teams.id", ondelete="SET NULL"), index=True
    )
    visibility: Mapped[str] = mapped_column(String(16), default="private")

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[CheckConstraint, ...]:
        return (
            CheckConstraint("visibility in ('private', 'team', 'everyone')", "visibility"),
            *getattr(cls, "CONSTRAINTS", ()),
        )
