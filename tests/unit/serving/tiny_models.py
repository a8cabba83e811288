"""Tiny real models: random bases with a byte tokenizer, adapters made by PEFT, full copies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codetune.artifacts import Artifact, run_stage
from codetune.models.load import BASE_FILE, BaseModel, load_model, resolve_base
from codetune.records import ModelCard, Repository
from codetune.registry.cards import Registry

SPECIAL = ("endoftext", "im_start", "im_end", "fim_prefix", "fim_middle", "fim_suffix")
SPECIAL += ("fim_pad", "repo_name", "file_sep")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


def write_tokenizer(folder: Path) -> int:
    """One token a byte and Qwen's control tokens; returns the vocabulary's size."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [AddedToken(f"<|{name}|>", special=True, normalized=False) for name in SPECIAL]
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return int(tokenizer.get_vocab_size())


def make_base(folder: Path, *, model_type: str = "qwen2", seed: int = 0, **changes: Any) -> Path:
    """A random model of some architecture, float32."""
    import transformers

    folder.mkdir(parents=True)
    size = write_tokenizer(folder)
    torch.manual_seed(seed)
    sizes = {"vocab_size": size} | SIZES | changes
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Wider than at the start of a training, so that greedy text is not one token.
            noise = torch.randn_like(parameter) * 0.05
            parameter.add_(noise) if parameter.dim() == 1 else parameter.mul_(4).add_(noise)
    save(model, folder)
    return folder


def save(model: Any, folder: Path) -> None:
    """`save_pretrained` without its bar."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)


def make_adapter(base: BaseModel, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A LoRA adapter of PEFT with random matrices, as training writes it."""
    import peft

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 16,
        "use_rslora": True,
        "target_modules": PROJECTIONS,
        "task_type": "CAUSAL_LM",
        "init_lora_weights": False,
    }
    model: Any = load_model(base.path, dtype=torch.float32)
    tuned = peft.get_peft_model(model, peft.LoraConfig(**(settings | changes)))
    tuned.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / BASE_FILE).write_text(json.dumps({"name": base.name, "digest": base.digest}))
    return folder


def make_full(base: BaseModel, folder: Path, *, seed: int = 1) -> Path:
    """Weights of their own, as full tuning writes them: the base, changed."""
    make_base(folder, seed=seed)
    return folder


def register(
    home: Path,
    name: str,
    base: BaseModel,
    model: Path,
    *,
    promoted: bool = True,
    repository: str = "github.com/team/shop",
) -> ModelCard:
    """Put a model folder into the registry through the stages that it expects."""
    import shutil

    card: Mapping[str, Any] = {
        "base": {},
        "tuned": {},
        "change": {},
        "promoted": promoted,
        "reasons": [],
    }

    def stage(kind: str, make: Any) -> Artifact:
        config = {"name": name, "model": str(model)}
        return run_stage(kind, home / "stages" / kind, config, {}, make)

    def run(place: Path) -> dict[str, Any]:
        shutil.copytree(model, place / "model")
        return {"method": "lora"}

    def evaluate(place: Path) -> dict[str, Any]:
        (place / "scorecard.json").write_text(json.dumps(card))
        return {}

    return Registry(home).register(
        name,
        run=stage("run", run),
        evaluation=stage("evaluation", evaluate),
        dataset=stage("dataset", lambda place: {}),
        cleaned=stage("corpus", lambda place: {}),
        repository=Repository(repository, "x", "git", "c" * 40, None),
        base=base,
    )


def base_of(folder: Path) -> BaseModel:
    return resolve_base(str(folder))
