"""A tiny real laboratory: a base with a tokenizer, an adapter on it, held-out Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from codetune.artifacts import Artifact, run_stage
from codetune.models.load import BaseModel, resolve_base
from codetune.models.prompts import Renderer

SPECIAL = [
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|im_start|>",
    "<|im_end|>",
]

FILES = {
    f"src/part{number}.py": (
        f"import os\n\n\ndef add_{number}(first, second):\n    return first + second\n\n\n"
        f"def name_{number}(folder):\n    path = os.path.join(folder, 'part{number}')\n"
        f"    return path.strip()\n"
    )
    for number in range(6)
}


def write_tokenizer(folder: Path) -> int:
    """A byte-level BPE with Qwen's token names; returns the vocabulary's size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(FILES.values(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster without threads that wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("base")
    size = write_tokenizer(folder)
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.4,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return resolve_base(str(folder))


@pytest.fixture(scope="session")
def renderer(base: BaseModel) -> Renderer:
    return Renderer.from_folder(base.path)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Held-out files, each scored after its first line, and two gaps in each of them."""

    def make(folder: Path) -> dict[str, int]:
        write_held_out(folder)
        return {"heldout_files": len(FILES)}

    return run_stage("dataset", tmp_path_factory.mktemp("datasets"), {}, {}, make)


def write_held_out(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, gaps = [], []
    for number, (path, text) in enumerate(FILES.items()):
        where = {"repo": "github.com/x/y", "path": path, "language": "python"}
        split = "time" if number % 2 else "file"
        first = text.index("\n") + 1
        region = text[first:]
        texts.append(
            {"id": f"t{number}", **where, "split": split, "context": text[:first]}
            | {"text": region, "bytes": len(region.encode())}
        )
        for middle, kind in (("first + second", "expression"), ("path.strip()", "line")):
            start = text.index(middle)
            gaps.append(
                {"id": f"g{number}{kind}", **where, "split": split, "kind": kind}
                | {"prefix": text[:start], "suffix": text[start + len(middle) :], "middle": middle}
            )
    pq.write_table(pa.Table.from_pylist(texts), folder / "heldout.parquet")
    pq.write_table(pa.Table.from_pylist(gaps), folder / "heldout_fim.parquet")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Artifact:
    """A finished run whose LoRA adapter really changes the base's answers."""

    def make(folder: Path) -> dict[str, object]:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(2)
        model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
        lora = LoraConfig(
            r=4, task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False
        )
        get_peft_model(model, lora).save_pretrained(folder / "model")
        (folder / "model" / "base.json").write_text(
            json.dumps({"name": base.name, "digest": base.digest})
        )
        return {"method": "lora"}

    return run_stage("run", tmp_path_factory.mktemp("runs"), {}, {"base": base.digest}, make)
