"""The management surface as a whole: each part's routes and who may call them."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from codetune.api.dialects.front import Front
from codetune.api.permissions import Access
from codetune.api.routes import (
    adapter_manager,
    analytics,
    compare,
    completion_server,
    datasets,
    evaluations,
    exports,
    ingest,
    jobs,
    models,
    ollama,
    repository_pipeline,
    settings,
    sources,
    tuning,
    user_models,
)
from codetune.workspace.workspace import Workspace


def parts(workspace: Workspace, front: Front) -> Iterator[tuple[APIRouter, Access]]:
    """The routers and their tables; paths that say more stand before templates."""
    for part in (
        sources,
        jobs,
        ingest,
        datasets,
        tuning,
        user_models,
        exports,
        evaluations,
        analytics,
        settings,
    ):
        yield part.routes(workspace), part.ACCESS
    yield compare.routes(front), compare.ACCESS
    for own in (models, ollama, completion_server, repository_pipeline, adapter_manager):
        yield own.routes(workspace, front), own.ACCESS
