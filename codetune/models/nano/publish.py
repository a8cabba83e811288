"""A checkpoint → the folder that transformers, llama.cpp converters and vLLM load unchanged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from codetune.models.nano.recipe import ModelRecipe, Recipe
from codetune.models.nano.tokenizer import SPECIAL_TOKENS


def model_config(recipe: ModelRecipe, ids: dict[str, int]) -> dict[str, Any]:
    """config.json: a plain Qwen2 model."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": recipe.vocabulary,
        "hidden_size": recipe.width,
        "intermediate_size": recipe.inner,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": recipe.positions,
        "rms_norm_eps": recipe.epsilon,
        "rope_theta": recipe.rope_theta,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|fim_pad|>"],
        "torch_dtype": "bfloat16",
    }


def publish(checkpoint: Path, tokenizer_folder: Path, out: Path) -> Recipe:
    """Write weights (bfloat16), configuration and tokenizer into `out`; gives the run's recipe."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    recipe = Recipe.load(stored["recipe"], str(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    # Before the decay the averaged weights are the better ones, after it the last ones.
    decayed = stored["position"]["decay_from"] >= 0
    chosen = stored["optimiser"]["masters" if decayed else "average"]
    weights = {name: weight.to(torch.bfloat16).contiguous() for name, weight in chosen.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, out / name)
    vocabulary = Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab()
    ids = {name: vocabulary[name] for name in SPECIAL_TOKENS}
    _write(out / "config.json", model_config(recipe.model, ids))
    stops = ["<|endoftext|>", "<|im_end|>", "<|file_sep|>", "<|repo_name|>"]
    generation = {
        "eos_token_id": [ids[name] for name in stops],
        "pad_token_id": ids["<|fim_pad|>"],
        "do_sample": False,
        "max_new_tokens": 128,
    }
    _write(out / "generation_config.json", generation)
    return recipe


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
