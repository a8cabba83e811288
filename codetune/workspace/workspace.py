"""The one thing that the services of a server share: its database, its home and its queue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codetune.accounts.vault import Vault
from codetune.jobs.config import JobOptions
from codetune.jobs.service import Jobs
from codetune.registry.cards import Registry
from codetune.registry.ownership import Owners
from codetune.store.database import Database
from codetune.workspace.renames import end_renames
from codetune.workspace.sealing import seal_all


@dataclass(frozen=True)
class Workspace:
    """Where the services read and write."""

    database: Database
    home: Path
    jobs: Jobs
    registry: Registry
    owners: Owners

    @classmethod
    def of(cls, database: Database, home: Path, options: JobOptions | None = None) -> Workspace:
        """The workspace of a database and a home; what was begun there and not ended is ended."""
        jobs = Jobs(database, options, home)
        registry = Registry(home)
        end_renames(database, registry)
        seal_all(database, Vault(home))
        return cls(database, home, jobs, registry, Owners(database))
