"""nano as an F16 GGUF file, so that llama.cpp runs the same weights beside us.

Only for measuring: prompts are sent as token ids, so that no pre-tokenizer has to agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm"}


def write_gguf(folder: Path, target: Path) -> None:
    """Write the Qwen2 model in `folder` to `target`; matrices in F16, vectors in F32."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    writer = gguf.GGUFWriter(str(target), "qwen2")
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, folder, config)
    for name, tensor in load_file(folder / "model.safetensors").items():
        exact = torch.float32 if tensor.dim() == 1 else torch.float16
        writer.add_tensor(_name(name), tensor.to(exact).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    module, kind = name.removeprefix("model.").rsplit(".", 1)
    if module in WHOLE:
        return f"{WHOLE[module]}.{kind}"
    _, number, rest = module.split(".", 2)
    return f"blk.{number}.{NAMES[rest]}.{kind}"


def _add_vocabulary(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    import gguf

    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = dict(tokenizer["model"]["vocab"])
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    by_id = {number: token for token, number in {**ids, **special}.items()}
    size = config["vocab_size"]
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(size)]
    kinds = [
        gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens
    ]
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
