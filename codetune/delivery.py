"""A registered model brought out: as files, into an Ollama server, to a hub.

The export itself (`export/`) knows nothing of serving. Here it is given the engine that serves,
so that what is written is compared with what users are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from codetune.export.config import ExportOptions
from codetune.export.export import Exported
from codetune.export.parity import Answers
from codetune.export.probes import ANSWER, Probe
from codetune.export.source import Source, source_of
from codetune.progress import Progress
from codetune.registry.cards import Registry

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

    source = source_of(registry, ref)
    return export(source, options, target, engine_answers(source), progress)


def engine_answers(source: Source) -> Answers:
    """How the server's own engine answers with this model, greedily, in float32."""

    def answers(probes: Sequence[Probe]) -> list[list[int]]:
        return asyncio.run(_ask(source, probes))

    return answers


async def _ask(source: Source, probes: Sequence[Probe]) -> list[list[int]]:
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
