"""One small repository, tiny random bases, and a home in which nothing is done twice."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mission.shop import make_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with code, tests, documentation and commits that explain themselves."""
    return make_shop(tmp_path_factory.mktemp("team") / "shop")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Qwen2 of two layers with the family's FIM tokens; its folder."""
    from tests.unit.serving.tiny_models import make_base

    return str(make_base(tmp_path_factory.mktemp("bases") / "qwen2"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random GPT-2, the architecture of DialoGPT and CodeGPT; its folder."""
    from tests.unit.serving.tiny_models import make_base

    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024}
    return str(make_base(tmp_path_factory.mktemp("bases") / "gpt2", model_type="gpt2", **sizes))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A $CODETUNE_HOME that all tests of this folder share."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CODETUNE_HOME", str(folder))
        yield folder
