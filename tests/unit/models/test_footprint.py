"""Memory that libraries would keep: kernels of shapes that do not come back, and a heap's holes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codetune.artifacts import Artifact
from codetune.errors import CodetuneError
from codetune.evaluation.config import EvaluationOptions
from codetune.evaluation.evaluate import evaluate
from codetune.models.footprint import KERNELS, VARIABLES, bound_kernels, give_back
from codetune.models.load import resolve_base
from codetune.pipeline import Journey
from codetune.progress import Progress, Quiet
from codetune.project import ProjectConfig

# 1,000 shapes, half a megabyte of kernels each; the children are alone with their heaps.
SHAPES = """
import sys, torch, psutil
from codetune.models.footprint import bound_kernels
torch.set_num_threads(1)
if sys.argv[1] == "bound":
    bound_kernels()
weight = torch.randn(64, 64, dtype=torch.bfloat16)
def resident(shapes):
    for rows in shapes:
        torch.randn(rows, 64, dtype=torch.bfloat16) @ weight
    return psutil.Process().memory_info().rss
print(-resident(range(16, 17)) + resident(range(32, 1032)))
"""


def grown(how: str) -> int:
    environment = {k: v for k, v in os.environ.items() if "CACHE_CAPACITY" not in k}
    ran = subprocess.run(
        [sys.executable, "-c", SHAPES, how],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ran.stdout)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no kernels in bf16 here"
)
def test_few_kernels_are_kept() -> None:
    assert grown("bound") < 0.6 * grown("free")


def test_training_and_evaluation_keep_few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CodetuneError):
        Journey(str(tmp_path / "none"), ProjectConfig(), Progress(Quiet())).train()
    assert [os.environ.pop(name) for name in VARIABLES] == [str(KERNELS)] * 2
    nothing = Artifact(tmp_path, "none", "0", {}, {})
    with pytest.raises(CodetuneError):
        evaluate(nothing, resolve_base("nano"), nothing, EvaluationOptions(), tmp_path, Progress())
    assert [os.environ.pop(name) for name in VARIABLES] == [str(KERNELS)] * 2


def test_a_number_of_the_users_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    bound_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert os.environ.pop("LRU_CACHE_CAPACITY") == str(KERNELS)


HOLES = """
import psutil
from codetune.models.footprint import give_back
kept, gone = [], []
for number in range(4000):  # pieces of 32 kB, each second one freed: the heap's end stays
    (kept if number % 2 else gone).append(bytearray(32_000))
gone.clear()
before = psutil.Process().memory_info().rss
give_back()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_holes_are_given_back() -> None:
    ran = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 30_000_000
    give_back()  # and again, with nothing to give
