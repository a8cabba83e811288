"""The one secret that a job may need: its owner's token of the hub that it uploads to.

It goes from the sealed settings through the worker into the child's standard input, and stands in
no row, file, argument or environment variable on the way.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from codetune.accounts.sealed import HUB_TOKEN, opened
from codetune.accounts.vault import Vault
from codetune.errors import StoreError
from codetune.jobs.queue import Claim
from codetune.jobs.work import Work
from codetune.store.database import Database
from codetune.store.settings import Setting

_log = logging.getLogger(__name__)


def with_token(claim: Claim, database: Database, home: Path) -> Work:
    """A claim's work, with the owner's token if it uploads something and there is one."""
    if claim.work.kind != "push":
        return claim.work
    with database.session() as session:
        row = session.get(Setting, (claim.owner, HUB_TOKEN))
    if row is None:
        return claim.work
    try:
        return replace(claim.work, token=opened(Vault(home), row))
    except StoreError as error:  # the job says that it has no token
        _log.warning("Job %s: %s", claim.job, error)
        return claim.work
