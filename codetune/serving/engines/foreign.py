"""Architectures and adapters that the lean decoder does not compute, through transformers.

Every sequence has its own cache and its own forward pass: nothing is gained by batching, but
any causal language model that transformers knows, and any LoRA that PEFT knows, is served.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from codetune.errors import BadRequestError, ModelError
from codetune.models.load import BaseModel, load_adapter, load_model
from codetune.serving.engines.runner import STRETCH
from codetune.serving.engines.sequence import Sequence


class TransformersRunner:
    """One model of transformers with any number of PEFT adapters on it."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        device: torch.device,
        *,
        rows: int,
        cache_bytes: int,
    ) -> None:
        model: Any = load_model(folder, dtype=dtype, device=device)
        if model.config.is_encoder_decoder:
            raise ModelError(
                f"{folder} holds an encoder with a decoder, which the server does not run.",
                advice="It can be tuned and asked from Python: codetune.PEFTAdapterManager.",
            )
        self._model: Any = model
        self._device, self._most_rows, self._cache_bytes = device, rows, cache_bytes
        self._token_bytes = _token_bytes(model.config.get_text_config(), dtype)
        self._adapters: dict[str, str] = {}  # folder → PEFT's name
        self._caches: dict[Sequence, Any] = {}
        self._lock = threading.Lock()  # adapters are loaded in another thread

    @property
    def bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self._model.parameters())

    @property
    def adapters(self) -> list[str]:
        return list(self._adapters)

    def load_adapter(self, folder: Path, base: BaseModel) -> None:
        name = f"adapter{len(self._adapters)}"
        while name in self._adapters.values():
            name += "_"
        with self._lock:
            self._model = load_adapter(self._model, folder, base=base, name=name)
            self._adapters[str(folder)] = name

    def drop_adapter(self, name: str) -> None:
        with self._lock:
            if len(self._adapters) > 1:  # PEFT keeps at least one
                self._model.delete_adapter(self._adapters.pop(name))

    def admit(self, sequence: Sequence) -> bool:
        tokens = sum(other.most for other in self._caches) + sequence.most
        if tokens * self._token_bytes > self._cache_bytes and not self._caches:
            raise BadRequestError(
                f"A request of {sequence.most} tokens does not fit into the server's cache.",
                param="max_tokens",
            )
        if len(self._caches) >= self._most_rows or tokens * self._token_bytes > self._cache_bytes:
            return False
        from transformers import DynamicCache

        self._caches[sequence] = DynamicCache()
        return True

    def prefill(self, sequence: Sequence) -> torch.Tensor | None:
        start, total = sequence.cached, len(sequence.ids)
        end = min(total, start + STRETCH)
        logits = self._forward(sequence, sequence.ids[start:end])
        sequence.cached = end
        return logits if end == total else None

    def decode(self, sequences: list[Sequence]) -> torch.Tensor:
        rows = []
        for sequence in sequences:
            rows.append(self._forward(sequence, sequence.ids[-1:]))
            sequence.cached += 1
        return torch.cat(rows)

    def remove(self, sequence: Sequence) -> None:
        del self._caches[sequence]

    def _forward(self, sequence: Sequence, ids: list[int]) -> torch.Tensor:
        """Logits [1, vocabulary] after the last of `ids`."""
        with self._lock:
            off: Any = nullcontext()
            if sequence.adapter:
                self._model.set_adapter(self._adapters[sequence.adapter])
            elif self._adapters:
                off = self._model.disable_adapter()
            with off:
                output = self._model(
                    input_ids=torch.tensor([ids], device=self._device),
                    past_key_values=self._caches[sequence],
                    use_cache=True,
                    logits_to_keep=1,
                )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def _token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token takes."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(config.num_hidden_layers * 2 * kv_heads * size * dtype.itemsize)
