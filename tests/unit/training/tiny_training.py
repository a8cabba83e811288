"""A tiny random Qwen2 and a tiny token store: real ones, that train in a second."""

from __future__ import annotations

import os

# One thread: bit-for-bit claims are about one CPU, and the machine runs other tests, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np

from codetune.artifacts import Artifact, run_stage
from codetune.models.load import BaseModel, resolve_base
from codetune.models.tokens import TokenWriter
from tests.unit.models.tiny_tokenizer import CHARACTERS, write_characters

VOCABULARY = CHARACTERS


def make_base(folder: Path) -> BaseModel:
    """A random 2-layer Qwen2 whose tokens are the characters of ASCII."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.2,  # a random base whose features an adapter can use
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_characters(folder)
    return resolve_base(str(folder))


def make_dataset(folder: Path, *, examples: int = 90, longest: int = 60, seed: int = 0) -> Artifact:
    """Counting sequences with random starts and steps: something that can be learnt."""
    random = np.random.default_rng(seed)

    def make(run: Path) -> dict[str, int]:
        for name, count in (("tokens", examples), ("validation", examples // 6)):
            with TokenWriter(run / name, VOCABULARY) as store:
                for document in range(count):
                    length = int(random.integers(4, longest + 1))
                    start, stride = random.integers(1, VOCABULARY), random.integers(1, 4)
                    ids = (start + stride * np.arange(length)) % VOCABULARY
                    fim = document % 3 == 0
                    store.append(
                        ids,
                        stream="fim" if fim else "ntp",
                        document=document,
                        loss_from=length // 2 if fim else 0,
                        gap_from=length * 3 // 4 if fim else 0,
                    )
        return {}

    inputs = {"examples": str(examples), "longest": str(longest), "seed": str(seed)}
    return run_stage("dataset", folder, {}, inputs, make)
