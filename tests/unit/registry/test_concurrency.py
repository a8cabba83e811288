"""Several processes at one registry, and processes that die in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from codetune.registry import cards
from codetune.registry.cards import Registry

from .finished_stages import stages

Stages = Callable[..., dict[str, Any]]


HERE = Path(__file__).parent


def child(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A real process that can register models as the tests do."""
    start = f"import sys; sys.path.insert(0, {str(HERE)!r}); from finished_stages import stages\n"
    start += "from pathlib import Path; from codetune.registry.cards import Registry\n"
    paths = os.pathsep.join([str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", start + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_versions_count_up_over_processes(tmp_path: Path) -> None:
    code = (
        "number, folder = int(sys.argv[1]), Path(sys.argv[2])\n"
        "for i in range(5):\n"
        "    parts = stages(folder / f'stages{number}', number * 5 + i)\n"
        "    Registry(folder).register('mine', **parts)\n"
    )
    processes = [child(code, number, tmp_path) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    found = [card for card in Registry(tmp_path).list() if card.kind != "base"]
    assert sorted(card.version for card in found) == list(range(1, 16))
    assert Registry(tmp_path).problems() == {}


def test_the_same_run_at_once_is_registered_once(tmp_path: Path, made: Stages) -> None:
    parts = made()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Registry(tmp_path).register("mine", **parts), range(16)))
    assert {card.id for card in found} == {"mine:1"}


@pytest.mark.parametrize("step", ["link_tree", "sync_tree"])
def test_a_kill_in_the_middle_leaves_no_half_card(tmp_path: Path, step: str) -> None:
    code = (
        "import os, signal\n"
        "from codetune.registry import cards\n"
        f"real = cards.{step}\n"
        "def die(*args):\n"
        "    real(*args)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"cards.{step} = die\n"
        "Registry(Path(sys.argv[1])).register('mine', **stages(Path(sys.argv[1]) / 's', 1))\n"
    )
    process = child(code, tmp_path)
    assert process.wait(60) == -signal.SIGKILL
    registry = Registry(tmp_path)
    assert [p.name[:5] for p in registry.root.glob(".new-*")] == [".new-"]  # it died in there
    assert registry.problems() == {}
    assert not [card for card in registry.list() if card.kind != "base"]
    card = registry.register("mine", **stages(tmp_path / "s", 1))
    assert registry.get("mine") == card
    assert not list(registry.root.glob(".new-*"))  # the next writer sweeps


def test_a_failure_in_the_middle_leaves_no_half_card(
    tmp_path: Path, made: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cards, "sync_tree", full)
    with pytest.raises(cards.RegistryError, match="Free some space"):
        Registry(tmp_path).register("mine", **made())
    assert not [card for card in Registry(tmp_path).list() if card.kind != "base"]
