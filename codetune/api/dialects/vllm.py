"""vLLM's way of loading and unloading adapters while the server runs.

`lora_path` names a registered model, or a folder under a root that the administrator has named
(`serve.adapter_roots`). An id is looked up in the registry and never becomes a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from codetune.api.dialects import bodies
from codetune.api.dialects.bodies import ASKING, described, read_body
from codetune.api.dialects.front import Front
from codetune.api.dialects.ollama_models import tag_of
from codetune.api.permissions import Access
from codetune.errors import BadRequestError, ModelError, RegistryError, UnservableModelError
from codetune.models.load import BaseModel, check_adapter
from codetune.serving.complete import REMOTE
from codetune.serving.engine import Servable, edition_of

ACCESS: Access = {
    "POST /v1/load_lora_adapter": "use",
    "POST /v1/unload_lora_adapter": "use",
}

_WORDS: dict[str, Any] = {"answers": "text/plain"}


class LoadRequest(bodies.Request):
    """`POST /v1/load_lora_adapter`."""

    lora_name: str = Field(min_length=1, max_length=128)
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool = False


class UnloadRequest(bodies.Request):
    """`POST /v1/unload_lora_adapter`."""

    lora_name: str = Field(min_length=1, max_length=128)


def routes(front: Front) -> APIRouter:
    """The routes that operators know."""
    router = APIRouter(prefix="/v1", tags=["vLLM"])

    @router.post("/load_lora_adapter", **described(LoadRequest, refusals=ASKING, **_WORDS))
    async def load(request: Request) -> Response:
        """Let a tuned model be asked for by another name, and load it now."""
        body = read_body(LoadRequest, await request.body())
        _check_name(body.lora_name)
        taken = {entry.id for entry in await front.listed(request)}
        again = body.load_inplace and front.given(request, body.lora_name) is not None
        if body.lora_name in taken and not again:
            raise BadRequestError(
                f"The lora adapter '{body.lora_name}' has already been loaded.", param="lora_name"
            )
        model = await _find(request, front, body.lora_path)
        if isinstance(model, str):
            await run_in_threadpool(front.completer.load, await front.resolve(request, model))
        else:
            await run_in_threadpool(front.completer.load, model)
        front.give(request, body.lora_name, model)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post("/unload_lora_adapter", **described(UnloadRequest, refusals=ASKING, **_WORDS))
    async def unload(request: Request) -> Response:
        """Forget a name that was given; requests that use the model go on."""
        body = read_body(UnloadRequest, await request.body())
        if not front.take_back(request, body.lora_name):
            raise RegistryError(f"The lora adapter '{body.lora_name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return router


def _check_name(name: str) -> None:
    """Raises BadRequestError for a name that means something else where it is asked for."""
    if name.startswith(REMOTE) or tag_of(name) != name:
        raise BadRequestError(
            f"An adapter cannot be called '{name}'.",
            param="lora_name",
            advice=f"Names of engines elsewhere begin with '{REMOTE}', and Ollama's clients "
            "write ':latest' behind any name.",
        )


async def _find(request: Request, front: Front, path: str) -> str | Servable:
    """The tuned model that `lora_path` names: the id of a registered version, or a folder.

    Ids are what is listed: a name that lacks its owner's, or was given here, is not kept.

    Raises:
        RegistryError: it names neither a model of the asker nor a folder under a root.
        BadRequestError: it is a base.
    """
    given = front.given(request, path)
    if isinstance(given, Servable):
        return given
    try:
        model = await front.resolve(request, given or path)
    except RegistryError:
        options = front.completer.options
        base = (await front.resolve(request, options.base)).base
        return await run_in_threadpool(_under_a_root, options.adapter_roots, path, base)
    if model.kind == "base":
        raise BadRequestError(f"'{path}' is a base, not an adapter.", param="lora_path")
    return model.id


def _under_a_root(roots: Sequence[str], path: str, base: BaseModel) -> Servable:
    missing = RegistryError(f"There is no adapter '{path}' here.")
    try:
        folder = Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # null characters, loops of links
        raise missing from None
    inside = any(root in folder.parents for root in (Path(root).resolve() for root in roots))
    if not (Path(path).is_absolute() and inside and (folder / "adapter_config.json").is_file()):
        raise missing
    try:
        check_adapter(folder, base=base)
    except ModelError as error:
        message = error.message.replace(str(folder), folder.name)
        raise UnservableModelError(f"'{folder.name}' cannot be served: {message}") from error
    # Whoever tunes again may overwrite the folder: other weights are another model.
    edition = edition_of(folder)
    created = int(folder.stat().st_mtime)
    return Servable(folder.name, "adapter", folder, base, created, edition=edition)
