"""The weights in memory: loaded beside the running work, dropped when least recently used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from codetune.errors import CodetuneError, ModelError, UnservableModelError
from codetune.models.load import check_adapter, check_folder, device_and_dtype, weight_files
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Servable
from codetune.serving.engines.runner import Runner

if TYPE_CHECKING:
    import torch

_FLOAT32_PARAMETERS = 250_000_000


class ModelPool:
    """Runners by the folder of their weights; adapters live in the runner of their base."""

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self._limit = int(options.weights_gb * 1e9)
        self._runners: OrderedDict[str, Runner] = OrderedDict()
        self._loading: dict[str, Future[str]] = {}
        self._places: dict[str, str] = {}  # model → its runner's key
        self._used: dict[str, int] = {}  # runner's key or adapter's folder → sequences
        self._lock = threading.RLock()
        # One at a time: two loads at once would only need twice the memory.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="codetune-loader")

    def acquire(self, model: Servable) -> Runner | None:
        """The runner of `model`, held until `release`; None while it is being loaded.

        What is held is not dropped.

        Raises:
            UnservableModelError: it cannot be loaded.
        """
        name = _name(model)
        with self._lock:
            if runner := self._loaded(model):
                self._loading.pop(name, None)
                self._runners.move_to_end(self._places[name])
                for key in (self._places[name], str(model.folder)):
                    self._used[key] = self._used.get(key, 0) + 1
                return runner
            future = self._loading.get(name)
            if future is None:
                self._loading[name] = self._loader.submit(self._load, model)
            elif future.done():
                # A failed load is tried again by the next request, not remembered.
                del self._loading[name]
                future.result()
            return None

    def wait(self, model: Servable) -> None:
        """Load `model` now; raises as `acquire`."""
        while self.acquire(model) is None:
            with self._lock:
                future = self._loading.get(_name(model))
            if future is not None:
                future.exception()
        self.release(model)

    def release(self, model: Servable) -> None:
        with self._lock:
            for key in (self._places[_name(model)], str(model.folder)):
                self._used[key] -= 1

    def close(self) -> None:
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _loaded(self, model: Servable) -> Runner | None:
        runner = self._runners.get(self._places.get(_name(model), ""))
        if runner is None or (model.kind == "adapter" and str(model.folder) not in runner.adapters):
            return None
        return runner

    # In the loader's thread.

    def _load(self, model: Servable) -> str:
        try:
            if model.kind == "adapter":
                check_adapter(model.folder, base=model.base)
            weights = model.base.path if model.kind == "adapter" else model.folder
            key, lean = self._place(model, weights)
            with self._lock:
                runner = self._runners.get(key)
            if runner is None:
                self._make_room(sum(file.stat().st_size for file in weight_files(weights)))
                runner = self._make_runner(weights, lean)
            if model.kind == "adapter" and str(model.folder) not in runner.adapters:
                self._make_room((model.folder / "adapter_model.safetensors").stat().st_size, key)
                runner.load_adapter(model.folder, model.base)
            with self._lock:
                self._runners[key] = runner
                self._places[_name(model)] = key
        except ModelError as error:
            raise _unservable(model, error) from error
        except MemoryError as error:
            raise UnservableModelError(f"There is no memory left for '{model.id}'.") from error
        return key

    def _place(self, model: Servable, weights: Path) -> tuple[str, bool]:
        """The key of the runner for `model`, and whether that is the lean decoder."""
        from codetune.serving.engines.lora import is_stackable
        from codetune.serving.engines.shape import read_shape

        lean = read_shape(check_folder(weights)) is not None
        if lean and model.kind == "adapter":
            lean = is_stackable(model.folder)
        return f"{weights}{'' if lean else ' through transformers'}", lean

    def _make_runner(self, weights: Path, lean: bool) -> Runner:
        import torch

        rows, cache_bytes = self._options.max_running, int(self._options.cache_gb * 1e9)
        device, dtype = self._device_and_dtype(weights)
        if not lean:
            from codetune.serving.engines.foreign import TransformersRunner

            return TransformersRunner(weights, dtype, device, rows=rows, cache_bytes=cache_bytes)
        from codetune.serving.engines.decoder import Decoder
        from codetune.serving.engines.runner import DecoderRunner
        from codetune.serving.engines.shape import read_shape

        shape = read_shape(check_folder(weights))
        assert shape is not None
        with torch.inference_mode():
            decoder = Decoder(weights, shape, dtype, device)
        return DecoderRunner(decoder, rows=rows, cache_bytes=cache_bytes)

    def _device_and_dtype(self, weights: Path) -> tuple[torch.device, torch.dtype]:
        import torch

        device, best = device_and_dtype()
        if self._options.dtype != "auto":
            return device, getattr(torch, self._options.dtype)
        parameters = sum(file.stat().st_size for file in weight_files(weights)) // 2
        small = parameters <= _FLOAT32_PARAMETERS and device.type == "cpu"
        return device, torch.float32 if small else best

    def _make_room(self, size: int, keep: str = "") -> None:
        """Drop what is idle, the least recently used first, until `size` bytes are free."""
        with self._lock:
            for key, runner in list(self._runners.items()):
                if size + sum(r.bytes for r in self._runners.values()) <= self._limit:
                    return
                if self._used.get(key, 0) == 0 and key != keep:
                    del self._runners[key]
                else:
                    for name in [n for n in runner.adapters if not self._used.get(n, 0)]:
                        runner.drop_adapter(name)


def _name(model: Servable) -> str:
    return f"{model.kind} {model.folder}"


def _unservable(model: Servable, error: CodetuneError) -> UnservableModelError:
    """The same reason without this machine's paths; the log has the whole."""
    message = error.message
    for folder in (model.folder, model.base.path):
        message = message.replace(f"{folder}/", "").replace(str(folder), "its folder")
    return UnservableModelError(f"'{model.id}' cannot be served: {message}", advice=error.advice)
