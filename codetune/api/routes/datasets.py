"""Datasets: training data that is sent, looked at, deleted, or built from a source."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.permissions import Access
from codetune.api.routes.jobs import JobSeen, queued
from codetune.api.routes.shapes import Key, Listing, Part, created, listing, refusals
from codetune.api.routes.tuning import Wanted
from codetune.dataset.formats import LayoutName
from codetune.errors import BadRequestError
from codetune.store.datasets import Dataset
from codetune.workspace.datasets import Datasets
from codetune.workspace.uploads import Sent, digest_of_file
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/datasets": "read",
    "POST /api/v1/datasets/upload": "create",
    "POST /api/v1/datasets/build": "create",
    "GET /api/v1/datasets/{dataset_id}": "read",
    "GET /api/v1/datasets/{dataset_id}/preview": "read",
    "DELETE /api/v1/datasets/{dataset_id}": "delete",
}
_COLUMNS = TypeAdapter(dict[str, str])


class DatasetSeen(BaseModel):
    """A dataset."""

    id: str
    name: str
    format: str = Field(description="What its fields mean; auto: by their names.")
    size: int = Field(description="Bytes.")
    rows: int
    characters: int = Field(description="Of all examples together.")
    digest: str
    licence: str
    created: datetime


class ExampleSeen(BaseModel):
    """An example: messages, or text."""

    row: int = Field(description="In the file; the first one is 1.")
    messages: list[dict[str, str]] | None
    text: str | None
    cut: bool = Field(description="Only its first 20,000 characters are shown.")


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/datasets."""
    router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
    _sending(router, workspace)
    _building(router, workspace)
    _looking(router, workspace)
    return router


def _sending(router: APIRouter, workspace: Workspace) -> None:
    """Training data that somebody has."""
    datasets = Datasets(workspace)

    @router.post("/upload", status_code=201, response_model=DatasetSeen, responses=refusals(409))
    def upload_dataset(
        request: Request,
        file: Annotated[UploadFile, File(description="JSON, JSON lines, CSV, Parquet or text.")],
        name: Annotated[str | None, Form(min_length=1, max_length=96)] = None,
        format: Annotated[
            LayoutName | None, Form(description="By the fields' names, else.")
        ] = None,
        columns: Annotated[
            str | None, Form(max_length=4096, description='{"instruction": "question"}: in JSON.')
        ] = None,
        encoding: Annotated[
            str | None,
            Form(
                max_length=40,
                pattern="^[A-Za-z0-9_.-]+$",
                description="Of text that is not UTF-8: latin-1.",
            ),
        ] = None,
        licence: Annotated[str, Form(max_length=96, description="SPDX.")] = "unknown",
        key: Key = None,
    ) -> Response:
        """Send training data; if a row cannot be used, it and its field are named."""
        sent = Sent(file.filename or "data", file.file)
        known = _columns(columns)
        digest = digest_of_file(sent.file) if key else None
        return created(
            workspace,
            request,
            key,
            [sent.name, name, format, known, encoding, licence, digest],
            lambda: _seen(
                datasets.send(
                    actor_of(request),
                    sent,
                    name=name,
                    format=format or "auto",
                    columns=known,
                    encoding=encoding,
                    licence=licence,
                )
            ),
        )


def _building(router: APIRouter, workspace: Workspace) -> None:
    """Training data that a source holds."""

    @router.post("/build", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def build(request: Request, body: Wanted, key: Key = None) -> Response:
        """Queue a job that makes training data of a source."""
        return queued(workspace, request, key, body, body.order("dataset"))


def _looking(router: APIRouter, workspace: Workspace) -> None:
    """What there is, and what is deleted of it."""
    datasets = Datasets(workspace)

    @router.get("", responses=refusals())
    def list_datasets(request: Request, part: Part) -> Listing[DatasetSeen]:
        """Your datasets, the newest first."""
        page = datasets.list(actor_of(request), part)
        return Listing(**listing(page, [_seen(row) for row in page.items]))

    @router.get("/{dataset_id}", responses=refusals())
    def get_dataset(request: Request, dataset_id: str) -> DatasetSeen:
        """One dataset."""
        return _seen(datasets.get(actor_of(request), dataset_id))

    @router.get("/{dataset_id}/preview", responses=refusals())
    def preview(request: Request, dataset_id: str, part: Part) -> Listing[ExampleSeen]:
        """Its examples; fewer than `limit` where they are long: go on behind the last one."""
        page = datasets.preview(actor_of(request), dataset_id, part)
        return Listing(**listing(page, page.items))

    @router.delete("/{dataset_id}", status_code=204, responses=refusals(409))
    def delete_dataset(request: Request, dataset_id: str) -> None:
        """Delete a dataset; models that were tuned on it stay."""
        datasets.delete(actor_of(request), dataset_id)


def _columns(text: str | None) -> dict[str, str]:
    try:
        return _COLUMNS.validate_python(json.loads(text)) if text else {}
    except (ValueError, ValidationError, RecursionError) as error:
        raise BadRequestError("'columns' is no JSON object of names.", param="columns") from error


def _seen(row: Dataset) -> DatasetSeen:
    details: dict[str, Any] = row.details
    return DatasetSeen(
        id=row.id,
        name=row.name,
        format=row.format,
        size=row.size,
        rows=row.rows,
        characters=details["characters"],
        digest=row.digest,
        licence=details["reading"]["licence"],
        created=row.created,
    )
