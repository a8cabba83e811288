"""User models: what was tuned, by name; saved, renamed, promoted, shared, deleted."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.accounts import audit
from codetune.api.auth import actor_of, origin_of
from codetune.api.permissions import Access
from codetune.api.routes.jobs import JobSeen, job_seen
from codetune.api.routes.shapes import Key, Listing, Part, created, listing, refusals
from codetune.api.routes.tuning import Wanted
from codetune.records import ModelCard
from codetune.serving.catalog import label_of
from codetune.workspace.orders import Orders
from codetune.workspace.user_models import UserModel, UserModels
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/user-models": "read",
    "POST /api/v1/user-models": "create",
    "POST /api/v1/user-models/import/{model_id}": "create",
    "GET /api/v1/user-models/{model_id}": "read",
    "DELETE /api/v1/user-models/{model_id}": "delete",
    "DELETE /api/v1/user-models/{model_id}/versions/{version}": "delete",
    "POST /api/v1/user-models/{model_id}/rename": "write",
    "POST /api/v1/user-models/{model_id}/promote": "write",
    "POST /api/v1/user-models/{model_id}/rollback": "write",
    "PUT /api/v1/user-models/{model_id}/sharing": "share",
}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewModel(_Body):
    """A finished tuning that is to be kept under a name."""

    tuning_id: str = Field(max_length=40)
    name: str = Field(max_length=64, pattern=_NAME)
    description: str = Field("", max_length=4000)


class NewName(_Body):
    """What a model is to be called."""

    name: str = Field(max_length=64, pattern=_NAME)


class NewVersion(_Body):
    """The version that the name is to stand for."""

    version: int = Field(ge=1, lt=2**31)


class Sharing(_Body):
    """Who else may use a model."""

    visibility: Literal["private", "team", "everyone"]
    team_id: str | None = Field(None, max_length=40, description="With 'team': a team of yours.")


class VersionSeen(BaseModel):
    """One version of a model."""

    id: str
    version: int
    kind: str
    base: str
    method: str
    created: str
    promoted: bool
    commits: dict[str, str]
    licences: dict[str, int]
    parents: list[str]
    config_digest: str
    data_digest: str
    scorecard: dict[str, Any]


class UserModelSeen(BaseModel):
    """A model with all its versions."""

    id: str
    name: str
    owner_id: str
    visibility: str
    team_id: str | None
    description: str
    current: str = Field(description="The version that the name stands for.")
    versions: list[VersionSeen]


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/user-models."""
    router = APIRouter(prefix="/api/v1/user-models", tags=["user models"])
    _looking(router, workspace)
    _making(router, workspace)
    _changing(router, workspace)
    _deleting(router, workspace)
    return router


def _looking(router: APIRouter, workspace: Workspace) -> None:
    """What there is."""
    models = UserModels(workspace)

    @router.get("", responses=refusals())
    def list_models(request: Request, part: Part) -> Listing[UserModelSeen]:
        """Your models and those that are shared with you, by name."""
        page = models.list(actor_of(request), part)
        return Listing(**listing(page, [_seen(model) for model in page.items]))

    @router.get("/{model_id}", responses=refusals())
    def get_model(request: Request, model_id: str) -> UserModelSeen:
        """One model."""
        return _seen(models.get(actor_of(request), model_id))


def _making(router: APIRouter, workspace: Workspace) -> None:
    """Saved from a tuning, and the tuning that goes on from a model."""
    models, orders = UserModels(workspace), Orders(workspace)

    @router.post("", status_code=201, response_model=UserModelSeen, responses=refusals(409))
    def save(request: Request, body: NewModel, key: Key = None) -> Response:
        """Keep a finished tuning's model under a name."""

        def make() -> UserModelSeen:
            actor = actor_of(request)
            model = models.save(actor, body.tuning_id, body.name, body.description)
            return _noted(workspace, request, "model.save", model, tuning=body.tuning_id)

        return created(workspace, request, key, body.model_dump(), make)

    @router.post(
        "/import/{model_id}",
        status_code=202,
        response_model=JobSeen,
        responses=refusals(409, 429),
    )
    def start_from(
        request: Request, model_id: str, body: Wanted | None = None, key: Key = None
    ) -> Response:
        """Queue a tuning that goes on from a model, with the options and source that made it."""
        wanted = body or Wanted()
        return created(
            workspace,
            request,
            key,
            wanted.model_dump(),
            lambda: job_seen(
                orders, models.start_from(actor_of(request), model_id, wanted.order("tune"))
            ),
            status=202,
        )


def _changing(router: APIRouter, workspace: Workspace) -> None:
    """What it is called, which version that is, and who may use it."""
    models = UserModels(workspace)

    @router.post("/{model_id}/rename", responses=refusals(409))
    def rename(request: Request, model_id: str, body: NewName) -> UserModelSeen:
        """Call it otherwise, with all its versions."""
        model = models.rename(actor_of(request), model_id, body.name)
        return _noted(workspace, request, "model.rename", model, id=model_id)

    @router.post("/{model_id}/promote", responses=refusals())
    def promote(request: Request, model_id: str, body: NewVersion) -> UserModelSeen:
        """Make a version the one that the name stands for; who asks it next is answered by it."""
        model = models.promote(actor_of(request), model_id, body.version)
        return _noted(workspace, request, "model.promote", model, version=body.version)

    @router.post("/{model_id}/rollback", responses=refusals(409))
    def roll_back(request: Request, model_id: str) -> UserModelSeen:
        """Go back to the version before the one that the name stands for."""
        model = models.roll_back(actor_of(request), model_id)
        return _noted(workspace, request, "model.promote", model, version=model.current.version)

    @router.put("/{model_id}/sharing", responses=refusals())
    def share(request: Request, model_id: str, body: Sharing) -> UserModelSeen:
        """Show it to a team, to everyone, or to nobody else."""
        model = models.share(actor_of(request), model_id, body.visibility, body.team_id)
        return _noted(
            workspace, request, "model.share", model, visibility=body.visibility, team=body.team_id
        )


def _deleting(router: APIRouter, workspace: Workspace) -> None:
    """For good."""
    models = UserModels(workspace)

    @router.delete("/{model_id}", status_code=204, responses=refusals(409))
    def delete(request: Request, model_id: str) -> None:
        """Delete a model with all its versions, for good."""
        model = models.get(actor_of(request), model_id)
        models.delete(actor_of(request), model_id)
        _noted(workspace, request, "model.delete", model)

    @router.delete("/{model_id}/versions/{version}", status_code=204, responses=refusals(409))
    def delete_version(request: Request, model_id: str, version: int) -> None:
        """Delete one version, for good; its number is not given again."""
        model = models.get(actor_of(request), model_id)
        models.delete(actor_of(request), model_id, version)
        _noted(workspace, request, "model.delete", model, version=version)


def _noted(
    workspace: Workspace, request: Request, act: str, model: UserModel, **details: Any
) -> UserModelSeen:
    """What was done with a model, in the audit log; and the model as it is seen now."""
    with workspace.database.write() as session:
        audit.record(session, actor_of(request), act, model.name, origin_of(request), **details)
    return _seen(model)


def _seen(model: UserModel) -> UserModelSeen:
    return UserModelSeen(
        id=model.id,
        name=model.name,
        owner_id=model.owner_id,
        visibility=model.visibility,
        team_id=model.team_id,
        description=str(model.details.get("description", "")),
        current=model.current.id,
        versions=[_version(card) for card in model.versions],
    )


def _version(card: ModelCard) -> VersionSeen:
    return VersionSeen(
        id=card.id,
        version=card.version,
        kind=card.kind,
        base=label_of(card.base),
        method=card.method,
        created=card.created,
        promoted=card.promoted,
        commits=card.commits,
        licences=card.licences,
        parents=[label_of(parent) for parent in card.parents],
        config_digest=card.config_digest,
        data_digest=card.data_digest,
        scorecard=card.metrics,
    )
