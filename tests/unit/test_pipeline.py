"""One source on its way to a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetune.pipeline import Journey
from codetune.progress import Progress
from codetune.project import ProjectConfig


def test_a_journey_knows_where_its_source_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    near = Journey("shop", ProjectConfig(), Progress())
    assert near.place == str(tmp_path / "shop")
    assert near.folder == Journey(str(tmp_path / "shop"), ProjectConfig(), Progress()).folder
    far = Journey("https://git.example/anna/shop", ProjectConfig(), Progress())
    assert far.place is None
    assert far.folder != near.folder
