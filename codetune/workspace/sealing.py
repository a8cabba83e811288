"""Secrets in the table of settings that are still plain, sealed."""

from __future__ import annotations

from contextlib import closing

from sqlalchemy import select, update

from codetune.accounts.sealed import purpose_of
from codetune.accounts.vault import Vault
from codetune.store.database import Database
from codetune.store.settings import Setting


def seal_all(database: Database, vault: Vault) -> int:
    """Seal the secrets that earlier versions, and their backups, hold as plain text; how many.

    Raises:
        StoreError: the key cannot be used.
    """
    plain = select(Setting).where(Setting.secret)
    with database.session() as session:
        if all("sealed" in row.value for row in session.scalars(plain)):
            return 0
    count = 0
    with database.write() as session:
        if database.is_sqlite:  # which else leaves the old text in the file's free space
            session.connection().exec_driver_sql("PRAGMA secure_delete = ON")
        for row in session.scalars(plain).all():
            if "sealed" in row.value:
                continue
            sealed = vault.seal(str(row.value["value"]), purpose_of(row.owner_id, row.name))
            mine = (Setting.owner_id == row.owner_id, Setting.name == row.name)
            new = {"value": {"sealed": sealed}, "updated": row.updated}
            session.execute(update(Setting).where(*mine).values(new))
            count += 1
    if database.is_sqlite:
        # Nor shall it stay in the log. Outside of a transaction, where SQLite can do this.
        with closing(database.engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return count
