"""A registered model brought out: as files, into an Ollama server, to a hub.

The export itself (`export/`) knows nothing of serving. Here it is given the engine that serves,
so that what is written is compared with what users are answered.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.progress import Progress
from codetune.registry.cards import Registry

if TYPE_CHECKING:
    from codetune.export.config import ExportOptions
    from codetune.export.export import Exported
    from codetune.export.hub import Destination
    from codetune.export.ollama import Server
    from codetune.export.parity import Answers
    from codetune.export.probes import Probe
    from codetune.export.source import Source

_FIRST = 0x10000  # a token as one character: the engine gives text, and ids are compared


def export_model(
    registry: Registry, ref: str, options: ExportOptions, target: Path, progress: Progress
) -> Exported:
    """Write the model called `ref` to the new folder `target`, proved equal to what is served.

    Raises:
        RegistryError: there is no such model.
        ExportError, ParityError, ModelError, MissingExtraError: as `export`.
    """
    from codetune.export.export import export
    from codetune.export.source import source_of

    source = source_of(registry, ref)
    return export(source, options, target, engine_answers(source), progress)


def kept_export(
    registry: Registry, ref: str, options: ExportOptions, target: Path, progress: Progress
) -> Exported:
    """`export_model`, or what an earlier attempt of the same job has finished in `target`."""
    from codetune.export.export import Exported

    if target.is_dir():  # it has its name only when it is whole
        return Exported.of(target)
    for rest in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(rest)  # of an attempt that was killed
    return export_model(registry, ref, options, target, progress)


def load_into_ollama(
    registry: Registry, made: Exported, server: Server, name: str, progress: Progress
) -> dict[str, Any]:
    """Make the GGUF file in an export's folder a model of an Ollama server.

    Raises:
        ExportError: the server cannot be reached, or refuses.
    """
    from codetune.export import modelfile, ollama
    from codetune.export.source import source_of

    spec, _ = modelfile.spec_of(source_of(registry, made.model))
    (file,) = [made.folder / name for name in made.files if name.endswith(".gguf")]
    ollama.create(server, name, file, spec, progress)
    return {"model": made.model, "ollama": name, "url": server.url, "file": file.name}


def load_file_into_ollama(
    path: Path, server: Server, name: str, progress: Progress
) -> dict[str, Any]:
    """Make a GGUF file, or the one that a Modelfile names, a model of an Ollama server.

    Raises:
        ExportError: it cannot be used, or the server cannot be reached, or refuses.
    """
    from codetune.export import ollama
    from codetune.export.reading import read_model

    file, spec = read_model(path)
    ollama.create(server, name, file, spec, progress)
    return {"ollama": name, "url": server.url, "file": file.name}


def push_export(made: Exported, destination: Destination, progress: Progress) -> dict[str, Any]:
    """Upload an export's folder to a hub.

    Raises:
        ExportError: the hub cannot be reached, or refuses.
    """
    from codetune.export import hub

    commit = hub.push(made.folder, made.files, destination, progress)
    return {
        "model": made.model,
        "repository": destination.repository,
        "commit": commit,
        "private": not destination.public,
        "files": dict(made.files),
    }


def engine_answers(source: Source) -> Answers:
    """How the server's own engine answers with this model, greedily, in float32."""

    def answers(probes: Sequence[Probe]) -> list[list[int]]:
        return asyncio.run(_ask(source, probes))

    return answers


async def _ask(source: Source, probes: Sequence[Probe]) -> list[list[int]]:
    from codetune.export.probes import ANSWER
    from codetune.export.speech import stops
    from codetune.serving.config import ServingOptions
    from codetune.serving.engine import Generation, Job, Sampling, Servable
    from codetune.serving.engines.local import LocalEngine

    kind = source.card.kind
    model = Servable(
        id=source.card.id,
        kind="adapter" if kind == "adapter" else "full" if kind == "full" else "base",
        folder=source.folder,
        base=source.base,
    )
    rules = Sampling(max_tokens=ANSWER, stop_ids=frozenset(stops(source)))
    engine = LocalEngine(ServingOptions(dtype="float32", idle_minutes=0, deadline=600.0))

    async def text(generation: Generation) -> str:
        return "".join([piece.text async for piece in generation])

    try:
        jobs = [Job(model, p.ids, rules, _characters, stream=False, deadline=600) for p in probes]
        said = await asyncio.gather(*map(text, engine.submit(jobs)))
    finally:
        engine.close()
    return [[ord(character) - _FIRST for character in answer] for answer in said]


def _characters(ids: Sequence[int]) -> str:
    return "".join(chr(_FIRST + token) for token in ids)
