"""The pipeline on tiny models, and answers from its server's core."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codetune.models.load import load_adapter, load_model
from codetune.models.prompts import Renderer
from codetune.models.seq2seq import Marks
from codetune.pipeline import Journey
from codetune.progress import Progress
from codetune.project import load_project
from codetune.records import ModelCard
from codetune.serving.config import ServingOptions
from codetune.serving.query import Prompt, Query

# Little of everything: what is tested is the way, not the score.
SMALL: dict[str, Any] = {
    "dataset.window": 384,
    "dataset.refused_at_most": 0.6,  # a token of the tiny bases is a byte: half does not fit
    "dataset.replay_share": 0.1,
    "dataset.instructions.most_of_a_kind": 20,
    "training.max_steps": 4,
    "training.batch_tokens": 1536,
    "training.learning_rate": 1e-2,
    "training.validation_tokens": 1000,
    "training.forgetting_limit": None,
    "evaluation.text_bytes": 1500,
    "evaluation.fim_prompts": 2,
    "evaluation.fim_new_tokens": 8,
    "evaluation.general_bytes": 600,
    "evaluation.bootstrap": 200,
}


def journey(
    source: Path, base: str, *, progress: Progress | None = None, **options: Any
) -> Journey:
    """A journey with `SMALL` options; `training__rank=4` stands for training.rank."""
    given = {key.replace("__", "."): value for key, value in options.items()}
    config = load_project(None, SMALL | {"base": base} | given)
    return Journey(str(source), config, progress or Progress())


def answers(base: str, prompt: Prompt, models: Sequence[str | None], tokens: int = 12) -> list[str]:
    """What each model says to a prompt, greedily, all asked at once."""
    from codetune.serving.local import local_completer

    async def ask() -> list[str]:
        completer = local_completer(ServingOptions(base=base))
        try:
            started = [
                await completer.start(
                    Query([prompt], model=model, max_tokens=tokens, temperature=0.0)
                )
                for model in models
            ]
            return [
                "".join([piece.text async for piece in answer.generations[0]]) for answer in started
            ]
        finally:
            completer.engine.close()

    return asyncio.run(ask())


def merged_answer(card: ModelCard, folder: Path, base: str, text: str, tokens: int = 12) -> str:
    """What transformers writes with the adapter merged into the plain base."""
    import torch

    if card.kind == "adapter":
        tuned: Any = load_adapter(load_model(Path(base), dtype=torch.float32), folder)
        model: Any = tuned.merge_and_unload()
    else:
        model = load_model(folder, dtype=torch.float32)
    renderer = Renderer.from_folder(Path(base))
    ids = renderer.start(None, None) + renderer.plain(text)
    whole = model.config.is_encoder_decoder
    given = torch.tensor([Marks.of(model.config).source(ids) if whole else ids])
    model.generation_config.eos_token_id = sorted(renderer.fim_stops)
    model.generation_config.pad_token_id = renderer.eos_id
    output = model.generate(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=tokens,
        do_sample=False,
    )[0]
    new = output[1:] if whole else output[given.shape[1] :]
    return renderer.decode([int(i) for i in new if int(i) not in renderer.fim_stops])
