"""A home with nano and tiny models of several kinds, and an export of one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codetune.delivery import export_model
from codetune.export.config import ExportOptions
from codetune.export.export import Exported
from codetune.models.load import BaseModel, resolve_base
from codetune.progress import Progress
from codetune.registry.cards import Registry
from tests.unit.models.tiny_families import write_base
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register

Export = Callable[..., Exported]


# A vocabulary with merges, which llama.cpp wants, has so many tokens; and ties of its own.
WIDE = {"vocab_size": 480, "tie_word_embeddings": False}


def with_merges(folder: Path) -> Path:
    """The same model with Qwen's way of splitting text, in small."""
    config = (folder / "config.json").read_text()
    write_base(folder, "qwen")
    (folder / "config.json").write_text(config)
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano's adapters shop, dora and strong; tiny/llama, an adapter, and tiny/whole."""
    home, made = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("made")
    nano = resolve_base("nano")
    shop = make_adapter(nano, made / "shop", seed=1, lora_alpha=1)
    register(home, "shop", nano, shop)
    register(home, "dora", nano, make_adapter(nano, made / "dora", lora_alpha=1, use_dora=True))
    llama = base_of(with_merges(make_base(made / "llama-base", model_type="llama", **WIDE)))
    register(home, "tiny/llama", llama, make_adapter(llama, made / "llama"))
    tiny = base_of(with_merges(make_base(made / "tiny-base", **WIDE)))
    whole = with_merges(make_base(made / "whole", seed=1, **WIDE))
    register(home, "tiny/whole", tiny, whole)
    return home


@pytest.fixture(scope="session")
def registry(home: Path) -> Registry:
    return Registry(home)


@pytest.fixture(scope="session")
def nano() -> BaseModel:
    return resolve_base("nano")


@pytest.fixture
def export(registry: Registry, tmp_path: Path) -> Export:
    """Export a model with some options into a folder of its own."""

    def make(ref: str, target: Path | None = None, **options: Any) -> Exported:
        place = target or tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        return export_model(registry, ref, ExportOptions(**options), place, Progress())

    return make
