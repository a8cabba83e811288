"""A model's name changes in the database and on the disk, or in neither.

    versions stand under both names → the database says the new one → the old ones are deleted

The database's transaction is the moment at which the name has changed. Whoever dies before it
leaves copies under the new name, which nobody owns yet; whoever dies after it leaves some under
the old one. `end_renames` deletes what the database does not speak of.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from codetune.registry import naming
from codetune.registry.cards import Registry
from codetune.store.database import Database
from codetune.store.models import Model


def take_turn(database: Database, session: Session) -> None:
    """Keep others from renaming, and from ending a rename, until the transaction has ended."""
    database.turn(session, "renames")


def end_renames(database: Database, registry: Registry) -> None:
    """End what somebody has begun, here or before this server was started."""
    for rename in naming.under_way(registry):
        with database.write() as session:
            take_turn(database, session)  # who is at it has committed, or has died
            row = session.get(Model, rename.owned)
            naming.settle(registry, rename, rename.old if row is None else row.name)
