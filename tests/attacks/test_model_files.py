"""Model folders that try to run code, or are broken: refused with one clear message."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from codetune.errors import ModelError, UnsafeModelError
from codetune.models.load import (
    BASE_FILE,
    EMBEDDED,
    BaseModel,
    check_adapter,
    load_adapter,
    load_model,
    resolve_base,
)

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"model.embed_tokens.weight": torch.zeros(32, 16)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    save_file({"x.lora_A.weight": torch.zeros(2, 16)}, folder / "adapter_model.safetensors")
    return folder


def plant(folder: Path, name: str) -> Path:
    """Put a pickle that leaves a mark into the folder; returns where the mark would be."""
    mark = folder.parent / "was-run"
    (folder / name).write_bytes(pickle.dumps({"weight": Bomb(mark)}))
    return mark


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "last.ckpt"])
def test_pickle_only_is_refused_unread(model: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    mark = plant(model, name)
    with pytest.raises(UnsafeModelError, match=name):
        load_model(model)
    with pytest.raises(UnsafeModelError, match=name):
        resolve_base(str(model))
    assert not mark.exists()


def test_pickle_named_like_safetensors_is_not_unpickled(model: Path) -> None:
    mark = plant(model, "model.safetensors")
    with pytest.raises(ModelError, match="truncated or damaged"):
        load_model(model)
    assert not mark.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(model: Path, file: str) -> None:
    mark = model.parent / "was-run"
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Model: pass\n")
    found = json.loads((model / file).read_text()) if (model / file).exists() else {}
    auto_map = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Model"}
    (model / file).write_text(json.dumps({**found, "auto_map": auto_map}))
    with pytest.raises(UnsafeModelError, match="auto_map"):
        load_model(model)
    assert not mark.exists()


@pytest.mark.parametrize(
    "shard", ["../other/model.safetensors", "/etc/passwd", "pytorch_model.bin"]
)
def test_index_that_points_elsewhere_is_refused(model: Path, shard: str) -> None:
    index = {"weight_map": {"model.embed_tokens.weight": shard}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeModelError, match="may not"):
        load_model(model)


@pytest.mark.parametrize("keep", [0, 4, 60, -3])
def test_truncated_weights_are_named(model: Path, keep: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated or damaged"):
        load_model(model)


def test_header_of_absurd_length_is_not_read(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="longer than the file"):
        load_model(model)


@pytest.mark.parametrize(
    "config", ["", "[1, 2]", '{"vocab_size": 3}', '{"model_type": "nothing-we-know"}', "[" * 5000]
)
def test_broken_config_is_a_model_error(model: Path, config: str) -> None:
    (model / "config.json").write_text(config)
    with pytest.raises(ModelError):
        load_model(model)


def test_base_without_tokenizer_is_refused(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        resolve_base(str(model))


def test_adapter_as_a_base_is_refused(adapter: Path) -> None:
    with pytest.raises(ModelError, match="holds an adapter"):
        resolve_base(str(adapter))


def test_unknown_base_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean 'nano'"):
        resolve_base("nanno")


def test_offline_hub_id_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="the hub does not give it") as raised:
        resolve_base("nobody/nothing-at-all")
    assert "HF_HUB_OFFLINE" in str(raised.value)


def base_of(model: Path, digest: str = "a" * 64) -> BaseModel:
    return BaseModel("some-base", model, digest, "qwen2")


def test_adapter_of_another_base_is_refused(adapter: Path, model: Path) -> None:
    (adapter / BASE_FILE).write_text(json.dumps({"name": "other-base", "digest": "b" * 64}))
    with pytest.raises(ModelError, match=r"another base than 'some-base'.*other-base"):
        load_adapter(torch.nn.Linear(1, 1), adapter, base=base_of(model))


def test_adapter_that_does_not_say_its_base_is_refused(adapter: Path, model: Path) -> None:
    config = {**LORA, "base_model_name_or_path": "evil/elsewhere"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no base\.json.*evil/elsewhere") as caught:
        load_adapter(torch.nn.Linear(1, 1), adapter, base=base_of(model))
    assert f'"digest": "{"a" * 64}"' in caught.value.advice


def test_adapter_of_other_weights_of_the_same_name_says_which(adapter: Path, model: Path) -> None:
    (adapter / BASE_FILE).write_text(json.dumps({"name": "some-base", "digest": "b" * 64}))
    with pytest.raises(ModelError, match=r"digest aaaaaaaaaaaa: 'some-base' with digest bbbb"):
        load_adapter(torch.nn.Linear(1, 1), adapter, base=base_of(model))


def test_adapter_pickle_is_refused_unread(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    mark = plant(adapter, "adapter_model.bin")
    with pytest.raises(UnsafeModelError, match=r"adapter_model\.bin"):
        load_adapter(torch.nn.Linear(1, 1), adapter)
    assert not mark.exists()


@pytest.mark.parametrize(
    "extra",
    [
        {"auto_mapping": {"base_model_class": "Popen", "parent_library": "subprocess"}},
        {"auto_map": {"AutoModel": "evil.Model"}},
    ],
)
def test_adapter_that_names_classes_is_refused(adapter: Path, extra: dict[str, Any]) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({**LORA, **extra}))
    with pytest.raises(UnsafeModelError, match="classes to import"):
        check_adapter(adapter)


def test_adapter_of_another_kind_is_refused(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(ModelError, match="PROMPT_TUNING"):
        check_adapter(adapter)


def test_truncated_adapter_is_named(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ModelError, match="truncated or damaged"):
        check_adapter(adapter)


def test_adapter_of_another_shape_is_refused(tmp_path: Path, adapter: Path) -> None:
    """Ranks and widths are checked by PEFT; its error gets one clear sentence."""
    nano = load_model(EMBEDDED["nano"], dtype=torch.float32)
    config = {**LORA, "task_type": "CAUSAL_LM", "base_model_name_or_path": "nano"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(2, 7)}, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit this base"):
        load_adapter(nano, adapter)


def test_a_base_that_changed_has_another_digest(model: Path) -> None:
    before = resolve_base(str(model)).digest
    copy = model.parent / "copy"
    shutil.copytree(model, copy)
    assert resolve_base(str(copy)).digest == before
    save_file({"model.embed_tokens.weight": torch.ones(32, 16)}, copy / "model.safetensors")
    assert resolve_base(str(copy)).digest != before
