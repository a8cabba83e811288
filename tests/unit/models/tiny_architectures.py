"""Tiny random models of every architecture that codetune says it tunes."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

from codetune.models.load import BaseModel, resolve_base
from tests.unit.models.tiny_tokenizer import write_characters

VOCABULARY = 128
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_ENDS = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_ff": 64,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}

# name → transformers' configuration class, and what it is given
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", {**_GROUPED, "tie_word_embeddings": True}),  # Qwen2, Qwen2.5
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 8}),
    "llama": ("LlamaConfig", _GROUPED),  # Llama, CodeLlama, DeepSeek-Coder
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 24}),  # shorter than documents
    "starcoder2": ("Starcoder2Config", _GROUPED),
    "deepseek_v2": (
        "DeepseekV2Config",
        {
            **_SIZES,
            "num_key_value_heads": 4,
            "q_lora_rank": None,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "n_group": None,
            "topk_group": None,
        },
    ),
    "gpt2": (  # GPT-2, DialoGPT, CodeGPT
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    ),
    "gpt_neox": ("GPTNeoXConfig", _SIZES),
    "bloom": (  # positions from the attention mask: cannot be packed
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    ),
    "t5": ("T5Config", _T5),
    "flan_t5": (
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}
SEQ2SEQ = ("t5", "flan_t5")
CAUSAL = tuple(name for name in ARCHITECTURES if name not in SEQ2SEQ)


def write_base(folder: Path, architecture: str) -> BaseModel:
    """A random float32 model of two layers, with a tokenizer file."""
    import torch
    import transformers

    name, settings = ARCHITECTURES[architecture]
    config = getattr(transformers, name)(**settings, **_ENDS)
    torch.manual_seed(0)
    kind = (
        transformers.AutoModelForSeq2SeqLM
        if architecture in SEQ2SEQ
        else transformers.AutoModelForCausalLM
    )
    model = kind.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(std=0.2)  # features that an adapter can use
    model.save_pretrained(folder)
    write_characters(folder)
    return resolve_base(str(folder))
