"""Usage also says how long answers took, and how many were cancelled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from codetune.store.base import BIGINT

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Rows of earlier versions get zeros: nobody knows it of them.
    with op.batch_alter_table("usage", schema=None) as batch_op:
        for name, kind in (
            ("cancelled", BIGINT),
            ("seconds", sa.Double()),
            ("first_seconds", sa.Double()),
            ("answered", BIGINT),
        ):
            batch_op.add_column(sa.Column(name, kind, nullable=False, server_default="0"))
