"""What is exported: a model of the registry with everything that has to go along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from codetune.errors import ModelError
from codetune.models.load import (
    BaseModel,
    check_adapter,
    read_json,
    resolve_base,
    safetensors_header,
    weight_files,
)
from codetune.models.prompts import Renderer
from codetune.models.prompts.templates import TEMPLATE_FILE
from codetune.records import ModelCard
from codetune.registry.cards import Registry
from codetune.registry.files import MODEL

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Source:
    """A model on this disk: `folder` holds an adapter for `base`, or whole weights."""

    card: ModelCard
    folder: Path
    base: BaseModel

    @property
    def is_adapter(self) -> bool:
        return self.card.kind == "adapter"

    @property
    def whole(self) -> Path:
        """The folder of whole weights: the base's below an adapter, else the model's own."""
        return self.base.path if self.is_adapter else self.folder

    @property
    def tokenizer(self) -> Path:
        """The folder whose tokenizer goes along; a model tuned in full has a copy."""
        own = not self.is_adapter and (self.folder / "tokenizer.json").is_file()
        return self.folder if own else self.base.path

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.whole / "config.json")

    @cached_property
    def renderer(self) -> Renderer:
        """As the server speaks to it: with the chat template that it has learned."""
        learned = self.folder / TEMPLATE_FILE
        return Renderer.from_folder(self.tokenizer, learned if learned.is_file() else None)

    @cached_property
    def parameters(self) -> int:
        """Weights as they are stored, tied ones once."""
        return sum(_count(entry["shape"]) for entry in self._tensors)

    @cached_property
    def dtype(self) -> str:
        """The type that most of the stored weights have, by torch's name.

        Raises:
            ModelError: it is none that a merged model could be stored in.
        """
        counts: dict[str, int] = {}
        for entry in self._tensors:
            counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + _count(entry["shape"])
        most = max(counts, key=lambda name: counts[name])
        if most not in _DTYPES:
            raise ModelError(
                f"{self.whole} is stored in {most}.",
                advice="A merged model needs its base unquantised: in float32, bfloat16 or "
                "float16.",
            )
        return _DTYPES[most]

    @cached_property
    def _tensors(self) -> list[dict[str, Any]]:
        headers = [safetensors_header(file) for file in weight_files(self.whole)]
        return [entry for header in headers for entry in header.values()]


def source_of(registry: Registry, ref: str) -> Source:
    """The model called `ref`, checked: an adapter belongs to exactly these weights.

    Raises:
        RegistryError: there is no such model.
        ModelError, UnsafeModelError: it, or its base, cannot be used.
    """
    card = registry.get(ref)
    base = resolve_base(card.base)
    if card.kind == "base":
        return Source(card, base.path, base)
    folder = registry.folder(card) / MODEL
    if card.kind == "adapter":
        check_adapter(folder, base=base)
    return Source(card, folder, base)


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
