"""Bases are found and loaded; the machine's facts respect its limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codetune.errors import ModelError
from codetune.models import hardware
from codetune.models.load import device_and_dtype, load_model, resolve_base
from codetune.models.places import EMBEDDED


def test_embedded_model_loads_in_this_machines_best_type() -> None:
    base = resolve_base("nano")
    assert base.architecture == "qwen2" and len(base.digest) == 64
    model = load_model(base.path)
    weight = next(model.parameters())
    assert (weight.device, weight.dtype) == device_and_dtype()
    assert not model.training


def test_folder_and_shards_are_the_same_model(tmp_path: Path) -> None:
    whole = EMBEDDED["nano"]
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    weights = load_file(whole / "model.safetensors")
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({n: weights[n] for n in part}, tmp_path / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    base = resolve_base(str(tmp_path))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        got, wanted = (load_model(p, dtype=torch.float32)(ids).logits for p in (base.path, whole))
    torch.testing.assert_close(got, wanted)


def test_a_folder_has_the_same_name_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card keeps the name; a relative one would mean something else, or nothing, elsewhere."""
    shutil.copytree(resolve_base("nano").path, tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    found = resolve_base("models/mine")
    assert found.name == str(tmp_path.resolve() / "models" / "mine")
    monkeypatch.chdir("/")
    assert resolve_base(found.name) == found
    assert resolve_base("nano").name == "nano"


def test_a_model_of_ours_is_found_in_a_home_that_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tuned from it keeps the path it had in the old home."""
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "new"))
    old = tmp_path / "old" / "models" / "shop-1" / "model"
    moved = tmp_path / "new" / "models" / "shop-1" / "model"
    with pytest.raises(ModelError, match="There is no base model"):
        resolve_base(str(old))
    shutil.copytree(resolve_base("nano").path, moved)
    assert resolve_base(str(old)).path == resolve_base(str(moved)).path == moved.resolve()
    with pytest.raises(ModelError, match="There is no base model"):
        resolve_base(str(old.with_name("other")))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-1\.safetensors is missing"):
        resolve_base(str(tmp_path))


@pytest.mark.parametrize("version", [1, 2])
def test_the_containers_limit_counts(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
        2: ("memory.max", "memory.current", "memory.stat"),
    }
    values = ("3000000", "2500000", "anon 5\ninactive_file 700000\nactive_file 300000\n")
    for name, value in zip(names[version], values, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(value)
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert hardware.memory_limit() == 3_000_000
    # What the page cache holds is given back when someone needs it.
    assert hardware.memory_available() == 1_500_000


def test_no_limit_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("max")
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert hardware.memory_limit() is None
    assert hardware.memory_available() > 0


def test_machine_facts() -> None:
    facts = hardware.machine()
    assert facts.cores >= 1 and facts.memory > 1 << 28
    assert hardware.matmul_flops("float32", size=128, seconds=0.01) > 1e6
