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
# Of Llama 3.1, for a model that was trained on so few tokens that tests reach beyond.
SLOWED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}


def with_merges(folder: Path, family: str = "qwen") -> Path:
    """The same model with a family's way of splitting text, in small."""
    config = (folder / "config.json").read_text()
    write_base(folder, family)
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
    scaled = make_base(made / "llama3-base", model_type="llama", rope_scaling=SLOWED, **WIDE)
    llama3 = base_of(with_merges(scaled))
    register(home, "tiny/llama3", llama3, make_adapter(llama3, made / "llama3"))
    pieces = make_base(made / "pieces-base", model_type="llama", **WIDE | {"vocab_size": 520})
    codellama = base_of(with_merges(pieces, "codellama"))
    register(home, "tiny/pieces", codellama, make_adapter(codellama, made / "pieces"))
    starcoder = base_of(
        with_merges(make_base(made / "star-base", model_type="starcoder2", **WIDE), "starcoder")
    )
    few = {"target_modules": ["q_proj", "c_fc"]}
    register(home, "tiny/star", starcoder, make_adapter(starcoder, made / "star", **few))
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


@pytest.fixture(scope="session")
def folder(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """shop as safetensors, which no test changes."""
    target = tmp_path_factory.mktemp("folder") / "out"
    return export_model(registry, "shop", ExportOptions(), target, Progress())


@pytest.fixture(scope="session")
def gguf_export(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """shop as an F16 GGUF file, which no test changes."""
    pytest.importorskip("gguf", reason="GGUF is written with the extra 'gguf'")
    target = tmp_path_factory.mktemp("gguf") / "out"
    return export_model(registry, "shop", ExportOptions(format="gguf"), target, Progress())


@pytest.fixture
def export(registry: Registry, tmp_path: Path) -> Export:
    """Export a model with some options into a folder of its own."""

    def make(ref: str, target: Path | None = None, **options: Any) -> Exported:
        place = target or tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        return export_model(registry, ref, ExportOptions(**options), place, Progress())

    return make
