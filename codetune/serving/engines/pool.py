"""The weights in memory: loaded beside the running work, dropped when least recently used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from codetune.errors import CodetuneError, ModelError, UnservableModelError
from codetune.models.load import check_adapter, check_folder
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Servable
from codetune.serving.engines.runner import DecoderRunner, Runner
from codetune.serving.engines.sequence import Sequence

_FLOAT32_PARAMETERS = 250_000_000


class ModelPool:
    """Runners by the folder of their weights. Adapters live in the runner of their base."""

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self._limit = int(options.weights_gb * 1e9)
        self._runners: OrderedDict[Path, Runner] = OrderedDict()
        self._loading: dict[tuple[Path, Path], Future[Runner]] = {}
        self._used: dict[Path, int] = {}  # folder of weights or adapter → sequences
        self._lock = threading.RLock()
        # One at a time: two loads at once would only need twice the memory.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="codetune-loader")

    def request(self, model: Servable) -> Runner | None:
        """The runner of `model`, or None while it is being loaded.

        Raises:
            ModelError, UnservableModelError: it cannot be loaded.
        """
        key = _weights_of(model), model.folder
        with self._lock:
            if self._is_loaded(model):
                self._loading.pop(key, None)
                self._runners.move_to_end(key[0])
                return self._runners[key[0]]
            future = self._loading.get(key)
            if future is None:
                self._loading[key] = self._loader.submit(self._load, model)
                return None
            if future.done():
                # A failed load is tried again by the next request, not remembered.
                del self._loading[key]
                return future.result()
            return None

    def wait(self, model: Servable) -> None:
        """Load `model` now; raises as `request`."""
        while self.request(model) is None:
            with self._lock:
                future = self._loading.get((_weights_of(model), model.folder))
            if future is not None:
                future.exception()

    def hold(self, sequence: Sequence) -> None:
        """While held, a sequence's weights and adapter stay."""
        with self._lock:
            for folder in {_weights_of(sequence.job.model), sequence.job.model.folder}:
                self._used[folder] = self._used.get(folder, 0) + 1

    def release(self, sequence: Sequence) -> None:
        with self._lock:
            for folder in {_weights_of(sequence.job.model), sequence.job.model.folder}:
                self._used[folder] -= 1

    def runners(self) -> list[Runner]:
        with self._lock:
            return list(self._runners.values())

    def close(self) -> None:
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _is_loaded(self, model: Servable) -> bool:
        runner = self._runners.get(_weights_of(model))
        if runner is None or model.kind != "adapter":
            return runner is not None
        return isinstance(runner, DecoderRunner) and str(model.folder) in runner.adapters

    def _load(self, model: Servable) -> Runner:
        """In the loader's thread."""
        try:
            weights = _weights_of(model)
            if model.kind == "adapter":
                check_adapter(model.folder, base=model.base)
            with self._lock:
                runner = self._runners.get(weights)
            if runner is None:
                runner = self._load_weights(weights)
                self._make_room(runner.bytes)
                with self._lock:
                    self._runners[weights] = runner
            if model.kind == "adapter":
                self._load_adapter(model, runner)
            return runner
        except ModelError as error:
            raise _unservable(model, error) from error
        except MemoryError as error:
            raise UnservableModelError(f"There is no memory left for '{model.id}'.") from error

    def _load_weights(self, folder: Path) -> Runner:
        import torch

        from codetune.models.load import device_and_dtype, weight_files
        from codetune.serving.engines.decoder import Decoder
        from codetune.serving.engines.shape import read_shape

        config = check_folder(folder)
        shape = read_shape(config)
        if shape is None:
            raise ModelError(f"The architecture '{config['model_type']}' is not served yet.")
        device, best = device_and_dtype()
        parameters = sum(file.stat().st_size for file in weight_files(folder)) // 2
        small = parameters <= _FLOAT32_PARAMETERS and device.type == "cpu"
        dtype = torch.float32 if small else best
        if self._options.dtype != "auto":
            dtype = getattr(torch, self._options.dtype)
        with torch.inference_mode():
            decoder = Decoder(folder, shape, dtype, device)
        cache_bytes = int(self._options.cache_gb * 1e9)
        return DecoderRunner(decoder, rows=self._options.max_running, cache_bytes=cache_bytes)

    def _load_adapter(self, model: Servable, runner: Runner) -> None:
        import torch

        from codetune.serving.engines.lora import read_adapter

        if not isinstance(runner, DecoderRunner):
            raise UnservableModelError(f"The base of '{model.id}' takes no adapters.")
        decoder = runner.decoder
        with torch.inference_mode():
            adapter = read_adapter(model.folder, decoder.shape, decoder.dtype, decoder.device)
        if adapter is None:
            raise UnservableModelError(f"'{model.id}' is a kind of adapter that is not served yet.")
        self._make_room(adapter.bytes)
        with self._lock:
            runner.adapters[str(model.folder)] = adapter

    def _make_room(self, size: int) -> None:
        """Drop what is idle, the least recently used first, until `size` bytes are free."""
        with self._lock:
            for folder, runner in list(self._runners.items()):
                if size + sum(r.bytes for r in self._runners.values()) <= self._limit:
                    return
                if self._used.get(folder, 0) == 0:
                    del self._runners[folder]
                elif isinstance(runner, DecoderRunner):
                    for name in [n for n in runner.adapters if not self._used.get(Path(n), 0)]:
                        runner.drop_adapter(name)


def _weights_of(model: Servable) -> Path:
    return model.base.path if model.kind == "adapter" else model.folder


def _unservable(model: Servable, error: CodetuneError) -> UnservableModelError:
    """The same reason without this machine's paths; the log has the whole."""
    message = error.message
    for folder in (model.folder, model.base.path):
        message = message.replace(f"{folder}/", "").replace(str(folder), "its folder")
    return UnservableModelError(f"'{model.id}' cannot be served: {message}", advice=error.advice)
