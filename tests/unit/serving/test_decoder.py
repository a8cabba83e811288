"""The lean decoder gives transformers' numbers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.errors import ModelError
from codetune.models.load import check_folder, load_model
from codetune.serving.engines.cache import Decode, KeyValueCache, Prefill
from codetune.serving.engines.decoder import Decoder
from codetune.serving.engines.shape import read_shape
from tests.unit.serving.tiny_models import make_base

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2"},
    "llama": {"model_type": "llama", "tie_word_embeddings": False, "attention_bias": True},
    "one key head": {"model_type": "llama", "num_key_value_heads": 1},
    "no groups": {"model_type": "mistral", "num_key_value_heads": 4, "sliding_window": None},
    "wide heads": {"model_type": "llama", "head_dim": 32, "mlp_bias": True},
    "other rotation": {"model_type": "qwen2", "rope_theta": 50_000.0},
}


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_prompts_and_steps_give_the_same_logits(kind: str, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", **KINDS[kind])
    shape = read_shape(check_folder(folder))
    assert shape is not None
    decoder = Decoder(folder, shape, torch.float32, CPU)
    cache = KeyValueCache(shape, torch.float32, CPU)
    cache.reserve(3, 64)
    ids = torch.randint(0, shape.vocabulary, (60,), generator=torch.Generator().manual_seed(1))
    expected: Any = load_model(folder, dtype=torch.float32, device="cpu")
    expected = expected(ids[None]).logits[0]

    whole = decoder(ids[:40], torch.arange(40), Prefill(cache, 0, 0, 40))
    torch.testing.assert_close(whole, expected[:40], atol=2e-4, rtol=1e-4)
    rest = decoder(ids[40:50], torch.arange(40, 50), Prefill(cache, 0, 40, 10), last_only=True)
    torch.testing.assert_close(rest, expected[49:50], atol=2e-4, rtol=1e-4)

    cache.copy(0, 1, 30)
    cache.copy(0, 2, 45)
    # Three sequences of different lengths, in their rows' order and in another one.
    for rows, places in (([0, 1, 2], [50, 30, 45]), ([2, 0, 1], [46, 51, 31])):
        step = Decode(cache, rows, places)
        logits = decoder(ids[places], step.positions, step)
        torch.testing.assert_close(logits, expected[places], atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_steps_in_16_bits_are_close_to_those_in_32(tiny_folder: Path) -> None:
    shape = read_shape(check_folder(tiny_folder))
    assert shape is not None
    ids = torch.arange(40, 80)
    logits = []
    for dtype in (torch.float32, torch.bfloat16):
        decoder = Decoder(tiny_folder, shape, dtype, CPU)
        cache = KeyValueCache(shape, dtype, CPU)
        cache.reserve(2, 64)
        decoder(ids[:30], torch.arange(30), Prefill(cache, 0, 0, 30))
        cache.copy(0, 1, 20)
        step = Decode(cache, [0, 1], [30, 20])
        logits.append(decoder(ids[[30, 20]], step.positions, step))
    distance = (logits[0] - logits[1]).norm(dim=1) / logits[0].norm(dim=1)
    assert distance.max() < 0.05


@torch.inference_mode()
def test_growing_the_cache_keeps_what_it_holds(tiny_folder: Path) -> None:
    shape = read_shape(check_folder(tiny_folder))
    assert shape is not None
    decoder = Decoder(tiny_folder, shape, torch.float32, CPU)
    cache = KeyValueCache(shape, torch.float32, CPU)
    cache.reserve(1, 16)
    ids = torch.arange(20)
    decoder(ids, torch.arange(20), Prefill(cache, 0, 0, 20))
    before = cache.stored(0, 20)
    assert before.count_nonzero() > 0.9 * before.numel()
    cache.reserve(5, 700)
    assert (cache.rows, cache.capacity) == (8, 1024)
    assert torch.equal(before, cache.stored(0, 20))
    cache.fill(6, before)
    assert torch.equal(before, cache.stored(6, 20))


def test_a_cache_that_finds_no_memory_can_be_used_again(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = read_shape(check_folder(tiny_folder))
    assert shape is not None and shape.layers > 1
    cache = KeyValueCache(shape, torch.float32, CPU)
    cache.reserve(1, 16)
    zeros, calls = torch.zeros, itertools.count()

    def scarce(*size: Any, **options: Any) -> torch.Tensor:
        if next(calls):
            raise torch.OutOfMemoryError("no memory")
        return zeros(*size, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", scarce)
        with pytest.raises(torch.OutOfMemoryError):
            cache.reserve(4, 700)
    assert cache.bytes() == 0
    cache.reserve(2, 700)
    assert {layer.shape[1] for layer in cache.layers} == {cache.rows} == {2}


def test_other_architectures_are_left_to_transformers() -> None:
    config = {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "vocab_size": 9,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
    }
    assert read_shape(config) is not None
    others: list[dict[str, Any]] = [
        {"model_type": "gpt2"},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"model_type": "mistral", "sliding_window": 16},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16},
        {"layer_types": ["sliding_attention"]},
    ]
    for other in others:
        assert read_shape(config | other) is None, other


def test_a_checkpoint_that_lacks_a_tensor_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_base(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    shape = read_shape(check_folder(folder))
    assert shape is not None
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        Decoder(folder, shape, torch.float32, CPU)
