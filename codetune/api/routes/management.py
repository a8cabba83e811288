"""The management surface as a whole: each part's routes and who may call them."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from codetune.api.dialects.front import Front
from codetune.api.permissions import Access
from codetune.api.routes import completion_server, models, sources, tuning
from codetune.workspace.workspace import Workspace


def parts(workspace: Workspace, front: Front) -> Iterator[tuple[APIRouter, Access]]:
    """The routers and their tables; paths that say more stand before templates."""
    for part in (sources, tuning):
        yield part.routes(workspace), part.ACCESS
    yield models.routes(front), models.ACCESS
    yield completion_server.routes(workspace, front), completion_server.ACCESS
