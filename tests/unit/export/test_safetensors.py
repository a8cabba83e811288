"""Merged folders: what transformers alone makes of them, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from codetune.delivery import export_model
from codetune.errors import ExportError, ModelError, ParityError, RegistryError, ServingError
from codetune.export import export as verb
from codetune.export.config import ExportOptions
from codetune.export.export import Exported
from codetune.export.source import source_of
from codetune.models.load import BASE_FILE, BaseModel, load_adapter, load_model
from codetune.models.prompts import Renderer
from codetune.progress import Progress
from codetune.registry.cards import Registry
from tests.unit.export.conftest import Export
from tests.unit.serving.tiny_models import make_adapter, register


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0]


def test_transformers_alone_answers_as_the_adapter_does(
    export: Export, registry: Registry, nano: BaseModel
) -> None:
    """No module of ours between the folder and the answer; the tuning is in it."""
    import transformers

    made = export("shop", dtype="float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.folder)
    text = "def add(a, b):\n    return "
    ids = tokenizer(text)["input_ids"]
    assert ids == Renderer.from_folder(nano.path).plain(text)
    plain: Any = load_model(nano.path, dtype=torch.float32, device="cpu")
    before = logits(plain, ids)
    tuned = load_adapter(plain, registry.folder(registry.get("shop")) / "model", base=nano)
    torch.testing.assert_close(logits(model, ids), logits(tuned, ids), rtol=1e-4, atol=1e-4)
    assert float((logits(model, ids) - before).abs().max()) > 0.1
    chat = [{"role": "user", "content": "hello"}]
    said = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert said == "user:\nhello\nassistant:\n"
    assert 8183 in model.generation_config.eos_token_id


def test_the_folder_holds_everything_and_nothing_else(folder: Exported) -> None:
    made = folder
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "parity.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    modes = {path.stat().st_mode for path in made.folder.iterdir()}
    assert len(modes) == 1, "who may read one file may read all"
    assert json.loads((made.folder / "tokenizer_config.json").read_text())["fim_order"] == (
        "spm-marked"
    )
    stored = load_file(made.folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}  # as nano is stored
    parity = json.loads((made.folder / "parity.json").read_text())
    assert parity["precision"] == "bfloat16"
    (written,) = parity["written"]
    assert 0 < written["divergence"] < written["changed_by_tuning"] / 100
    assert parity["merged"]["divergence"] < 1e-9
    card = (made.folder / "README.md").read_text()
    assert "github.com/team/shop" in card
    assert "nano" in card


def test_what_the_adapter_leaves_alone_is_the_base_bit_for_bit(
    folder: Exported, nano: BaseModel
) -> None:
    made, base = folder, load_file(nano.path / "model.safetensors")
    stored = load_file(made.folder / "model.safetensors")
    assert stored.keys() == base.keys()
    changed = [name for name in base if not torch.equal(base[name], stored[name])]
    assert changed
    assert all("proj" in name for name in changed)


@pytest.mark.parametrize("model", ["dora", "tiny/whole", "nano"])
def test_every_kind_is_exported(model: str, export: Export) -> None:
    """DoRA, a model tuned in full, and a bare base."""
    made = export(model, dtype="float32")
    written = made.parity["written"][0]
    assert written["same_texts"] == written["texts"] > 0
    assert (written["changed_by_tuning"] > 1e-3) == (model != "nano")


def test_another_adapter_in_its_place_is_noticed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that leaves something out is no export: nothing is kept."""
    whole = verb.merged

    def forgetful(model: Any) -> Any:
        for name, weight in model.named_parameters():
            if "layers.2.mlp.up_proj.lora_B" in name:
                weight.data.zero_()
        return whole(model)

    monkeypatch.setattr(verb, "merged", forgetful)
    with pytest.raises(ParityError, match="a logit differs"):
        export_model(registry, "shop", ExportOptions(), tmp_path / "out", Progress())
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_lost_in_rounding_is_refused(
    home: Path, registry: Registry, nano: BaseModel, tmp_path: Path
) -> None:
    """So small a change does not survive bfloat16; float32 keeps it."""
    folder = make_adapter(nano, tmp_path / "faint", seed=3, lora_alpha=0.006)
    register(home, "faint", nano, folder)
    with pytest.raises(ParityError, match="lost in the rounding"):
        export_model(registry, "faint", ExportOptions(), tmp_path / "out", Progress())
    assert not (tmp_path / "out").exists()
    kept = export_model(
        registry, "faint", ExportOptions(dtype="float32"), tmp_path / "out", Progress()
    )
    assert kept.parity["written"][0]["divergence"] < 1e-9


def test_a_broken_adapter_is_refused(
    home: Path, registry: Registry, nano: BaseModel, tmp_path: Path
) -> None:
    """Weights that are no numbers; and one made for another base."""
    folder = make_adapter(nano, tmp_path / "nan", seed=4, lora_alpha=1)
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    save_file(weights | {name: weights[name] * float("nan")}, folder / "adapter_model.safetensors")
    register(home, "nan", nano, folder)
    with pytest.raises(ServingError, match="weights that are not numbers"):
        export_model(registry, "nan", ExportOptions(), tmp_path / "out", Progress())
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    (foreign / BASE_FILE).write_text(json.dumps({"name": "other", "digest": "0" * 64}))
    register(home, "foreign", nano, foreign)
    with pytest.raises(ModelError, match="another base"):
        source_of(registry, "foreign")
    with pytest.raises(RegistryError, match=r"no model '\.\./shop'"):
        source_of(registry, "../shop")
    assert not (tmp_path / "out").exists()


def test_an_occupied_place_and_a_full_disk_are_named(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded where that can be known, and without leaving parts."""
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="there already"):
        export("shop", tmp_path / "there")

    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: Usage(1, 1, 1_000_000))
        with pytest.raises(ExportError, match=r"takes about 11\.\d MB, and the disk .* 1\.0 MB"):
            export("shop", tmp_path / "new")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(verb, "write_card", full)
    with pytest.raises(ExportError, match="No space left"):
        export("shop", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_model_without_an_adapter_brings_no_peft() -> None:
    """With PEFT comes bitsandbytes, which may ask the hub for compiled code."""
    code = """
import sys
import torch
from codetune.export.merge import merged
from codetune.export.parity import _before
model = torch.nn.Linear(1, 1)
assert merged(model) is model and _before(model, None, []) == []
sys.exit(int("peft" in sys.modules or "bitsandbytes" in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
