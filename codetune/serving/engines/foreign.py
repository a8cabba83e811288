"""Architectures and adapters that the lean decoder does not compute, through transformers.

Every sequence has its own cache and its own forward pass: nothing is gained by batching, but
any language model that transformers knows, and any LoRA that PEFT knows, is served. Of an
encoder with a decoder (T5) the prompt is the encoder's, and the answer the decoder's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from codetune.errors import BadRequestError
from codetune.models.load import BaseModel, check_adapter, load_adapter, load_model
from codetune.models.seq2seq import Marks
from codetune.serving.engines.lora import WEIGHTS, check_numbers
from codetune.serving.engines.runner import STRETCH, Usage
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
        self._model: Any = load_model(folder, dtype=dtype, device=device)
        config: Any = self._model.config
        self._marks = Marks.of(config) if config.is_encoder_decoder else None
        self._device, self._most_rows, self._cache_bytes = device, rows, cache_bytes
        self._token_bytes = _token_bytes(config.get_text_config(), dtype)
        self._adapters: dict[str, str] = {}  # our name → PEFT's
        self._caches: dict[Sequence, Any] = {}
        self._encoded: dict[Sequence, Any] = {}  # what the encoder made of the prompt
        self._lock = threading.Lock()  # adapters are loaded in another thread

    @property
    def adapters(self) -> list[str]:
        return list(self._adapters)

    def usage(self) -> Usage:
        with self._lock:
            sizes = [
                (".lora_" in name, parameter.numel() * parameter.element_size())
                for name, parameter in self._model.named_parameters()
            ]
        adapters = sum(size for tuned, size in sizes if tuned)
        cache = sum(sequence.cached for sequence in list(self._caches)) * self._token_bytes
        return Usage(sum(size for _, size in sizes) - adapters, adapters, cache, 0)

    def measure(self, folder: Path, base: BaseModel) -> int:
        check_adapter(folder, base=base)
        return (folder / WEIGHTS).stat().st_size

    def load_adapter(self, folder: Path, base: BaseModel, name: str) -> None:
        if name in self._adapters:  # the last one, which could not be dropped
            return
        check_numbers(folder)
        called = f"adapter{len(self._adapters)}"
        while called in self._adapters.values():
            called += "_"
        with self._lock:
            self._model = load_adapter(self._model, folder, base=base, name=called)
            self._adapters[name] = called

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
        from transformers import DynamicCache, EncoderDecoderCache

        cache: Any = DynamicCache()
        if self._marks is not None:
            cache = EncoderDecoderCache(cache, DynamicCache())
        self._caches[sequence] = cache
        return True

    def prefill(self, sequence: Sequence) -> torch.Tensor | None:
        start, total = sequence.cached, len(sequence.ids)
        if self._marks is not None:
            self._encode(sequence, self._marks.source(sequence.ids))
            sequence.cached = total
            return self._forward(sequence, [self._marks.start])
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

    def states(self, ids: list[int], adapter: str | None) -> torch.Tensor:
        """The last hidden states of a text [tokens, hidden], the encoder's where there is one.

        For another thread than the scheduler's, which waits for one stretch at a time.
        """
        tokens = torch.tensor([ids], device=self._device)
        if self._marks is not None:
            with self._weights_of(adapter):
                return self._model.get_encoder()(input_ids=tokens)[0][0].float()  # type: ignore[no-any-return]
        from transformers import DynamicCache

        cache, states = DynamicCache(), []
        for stretch in torch.split(tokens, STRETCH, 1):
            with self._weights_of(adapter):
                output = self._model(
                    stretch,
                    past_key_values=cache,
                    use_cache=True,
                    output_hidden_states=True,
                    logits_to_keep=1,
                )
            states.append(output.hidden_states[-1][0].float())
        return torch.cat(states)

    def remove(self, sequence: Sequence, *, keep: bool) -> None:
        del self._caches[sequence]
        self._encoded.pop(sequence, None)

    def _encode(self, sequence: Sequence, ids: list[int]) -> None:
        with self._weights_of(sequence.adapter):
            given = torch.tensor([ids], device=self._device)
            self._encoded[sequence] = self._model.get_encoder()(input_ids=given)

    def _forward(self, sequence: Sequence, ids: list[int]) -> torch.Tensor:
        """Logits [1, vocabulary] after the last of `ids`."""
        tokens = torch.tensor([ids], device=self._device)
        if self._marks is None:
            given = {"input_ids": tokens, "logits_to_keep": 1}
        else:
            given = {"decoder_input_ids": tokens, "encoder_outputs": self._encoded[sequence]}
        with self._weights_of(sequence.adapter):
            output = self._model(**given, past_key_values=self._caches[sequence], use_cache=True)
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    @contextmanager
    def _weights_of(self, adapter: str | None) -> Iterator[None]:
        """The model with an adapter, or with none."""
        with self._lock:
            off: Any = nullcontext()
            if adapter:
                self._model.set_adapter(self._adapters[adapter])
            elif self._adapters:
                off = self._model.disable_adapter()
            with off:
                yield


def _token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token takes."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(config.num_hidden_layers * 2 * kv_heads * size * dtype.itemsize)
