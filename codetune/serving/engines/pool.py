"""The weights in memory: loaded beside the running work, dropped when least recently used."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codetune.errors import CodetuneError, ModelError, UnservableModelError
from codetune.models.load import check_adapter, check_folder, device_and_dtype, weight_files
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Servable, edition_of
from codetune.serving.engines.runner import Runner, Usage

if TYPE_CHECKING:
    import torch

_FLOAT32_PARAMETERS = 250_000_000
_NO_ROOM_POLL = 0.01  # seconds
_IDLE_LOOK = 1.0  # seconds between looks for idle adapters
_FOREIGN = " through transformers"  # in the key of weights that the lean decoder cannot run
_DONE = -1


@dataclass
class _Loaded:
    """An adapter in memory."""

    runner: str  # key
    folder: str
    size: int  # bytes
    used_at: float  # on the monotonic clock


class ModelPool:
    """Runners by the key of their weights; adapters live in the runner of their base.

    Names are resolved before a model gets here: a promoted version is another folder, and is
    loaded beside the one whose answers still run.
    """

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self._weights_limit = int(options.weights_gb * 1e9)
        self._adapters_limit = int(options.adapters_gb * 1e9)
        self._idle = options.idle_minutes * 60 or math.inf
        self._runners: OrderedDict[str, Runner] = OrderedDict()
        self._folders: dict[str, str] = {}  # runner's key → folder of its weights
        self._adapters: OrderedDict[str, _Loaded] = OrderedDict()  # by their keys, by last use
        self._loading: dict[str, Future[int]] = {}
        self._places: dict[str, str] = {}  # model → its runner's key
        self._used: Counter[str] = Counter()  # runner's key or adapter's → sequences
        self._lock = threading.RLock()
        self._looks_at = 0.0  # when idle adapters are looked for again, on the monotonic clock
        self._releases = 0  # how often an adapter in use was let go
        self.loads = self.evictions = 0  # of adapters
        self._tidied = 0  # loads and evictions after which memory was given back
        # One at a time: two loads at once would only need twice the memory.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="codetune-loader")

    def acquire(self, model: Servable) -> Runner | None:
        """The runner of `model`, held until `release`; None while there is none.

        It may be loading, or wait until adapters in use leave room for another. What is held
        is not dropped.

        Raises:
            UnservableModelError: it cannot be loaded.
        """
        name = _name(model)
        with self._lock:
            if runner := self._loaded(model):
                self._loading.pop(name, None)
                self._hold(model)
                return runner
            future = self._loading.get(name)
            if future is None:
                self._loading[name] = self._loader.submit(self._load, model)
            elif future.done() and (future.exception() or future.result() != self._releases):
                # A failed load is tried again by the next request, not remembered; one that
                # found no room is tried again as soon as an adapter has been let go.
                del self._loading[name]
                future.result()
            return None

    def wait(self, model: Servable) -> None:
        """Load `model` now; raises as `acquire`."""
        while self.acquire(model) is None:
            with self._lock:
                future = self._loading.get(_name(model))
            if future is not None and future.exception() is None and future.result() != _DONE:
                time.sleep(_NO_ROOM_POLL)
        self.release(model)

    def release(self, model: Servable) -> None:
        with self._lock:
            for key in self._keys(model):
                self._used[key] -= 1
                if not self._used[key]:
                    del self._used[key]
            if (adapter := self._adapters.get(model.key)) is not None:
                adapter.used_at = time.monotonic()
                self._releases += not self._used[model.key]

    def tidy(self) -> None:
        """Drop the adapters that nobody has used for as long as the options say.

        What adapters have left behind goes back to the system.
        """
        now = time.monotonic()
        if now < self._looks_at:
            return
        self._looks_at = now + _IDLE_LOOK
        with self._lock:
            for name, adapter in list(self._adapters.items()):
                if now - adapter.used_at > self._idle and not self._used[name]:
                    self._drop(name)
            if self._tidied != (changes := self.loads + self.evictions):
                self._tidied = changes
                self._loader.submit(_give_back)

    def usage(self) -> tuple[int, int, list[Usage]]:
        """Sets of weights, adapters, and the memory of each set."""
        with self._lock:
            runners = list(self._runners.values())
            return len(runners), len(self._adapters), [runner.usage() for runner in runners]

    def loaded(self) -> set[str]:
        """The folders of what is in memory."""
        with self._lock:
            adapters = {adapter.folder for adapter in self._adapters.values()}
            return adapters | set(self._folders.values())

    def close(self) -> None:
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _loaded(self, model: Servable) -> Runner | None:
        runner = self._runners.get(self._places.get(_name(model), ""))
        if runner is None or (model.kind == "adapter" and model.key not in self._adapters):
            return None
        return runner

    def _hold(self, model: Servable) -> None:
        self._runners.move_to_end(self._places[_name(model)])
        self._used.update(self._keys(model))
        if model.kind == "adapter":
            self._adapters.move_to_end(model.key)

    def _keys(self, model: Servable) -> set[str]:
        return {self._places[_name(model)], model.key}

    def _drop(self, name: str) -> None:
        self._runners[self._adapters.pop(name).runner].drop_adapter(name)
        self.evictions += 1

    # In the loader's thread.

    def _load(self, model: Servable) -> int:
        """_DONE, or how many releases there had been when there was no room for it."""
        try:
            if model.kind == "adapter":
                check_adapter(model.folder, base=model.base)
            weights = model.base.path if model.kind == "adapter" else model.folder
            key, lean = self._place(model, weights)
            runner = self._runner(key, weights, lean)
            if model.kind == "adapter":
                releases = self._load_adapter(model, key, runner)
                if releases != _DONE:
                    return releases
            with self._lock:
                self._places[_name(model)] = key
        except ModelError as error:
            raise _unservable(model, error) from error
        except CodetuneError:
            raise
        except MemoryError as error:
            raise UnservableModelError(f"There is no memory left for '{model.id}'.") from error
        except Exception as error:
            # Files of people we do not know: whatever they provoke is theirs alone.
            raise UnservableModelError(
                f"'{model.id}' cannot be loaded: {type(error).__name__}."
            ) from error
        return _DONE

    def _runner(self, key: str, weights: Path, lean: bool) -> Runner:
        with self._lock:
            runner = self._runners.get(key)
        if runner is None:
            self._make_room(sum(file.stat().st_size for file in weight_files(weights)))
            runner = self._make_runner(weights, lean)
            with self._lock:
                self._runners[key], self._folders[key] = runner, str(weights)
        return runner

    def _load_adapter(self, model: Servable, key: str, runner: Runner) -> int:
        """As `_load`; what does not fit its base, or never fits into memory, is refused."""
        name, limit = model.key, self._adapters_limit
        size = runner.measure(model.folder, model.base)
        if size > limit:
            raise UnservableModelError(
                f"'{model.id}' takes {size / 1e6:.1f} MB; all adapters together may have "
                f"{limit / 1e6:.1f}.",
                advice="Give the server more with adapters_gb.",
            )
        with self._lock:
            if name in self._adapters:
                return _DONE
            in_use = sum(a.size for one, a in self._adapters.items() if self._used[one])
            if in_use + size > limit:
                return self._releases
            idle = [one for one in self._adapters if not self._used[one]]
            while sum(adapter.size for adapter in self._adapters.values()) + size > limit:
                self._drop(idle.pop(0))
        runner.load_adapter(model.folder, model.base, name)
        with self._lock:
            self._adapters[name] = _Loaded(key, str(model.folder), size, time.monotonic())
            self.loads += 1
        return _DONE

    def _place(self, model: Servable, weights: Path) -> tuple[str, bool]:
        """The key of the runner for `model`, and whether that is the lean decoder."""
        from codetune.serving.engines.lora import is_stackable
        from codetune.serving.engines.shape import read_shape

        lean = read_shape(check_folder(weights)) is not None
        if lean and model.kind == "adapter":
            lean = is_stackable(model.folder)
        # A renamed model leaves its folder's name to the next one: the files count, too.
        return f"{weights} {edition_of(weights)}{'' if lean else _FOREIGN}", lean

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
        reuse = self._options.reuse_prefixes
        return DecoderRunner(decoder, rows=rows, cache_bytes=cache_bytes, reuse=reuse)

    def _device_and_dtype(self, weights: Path) -> tuple[torch.device, torch.dtype]:
        import torch

        device, best = device_and_dtype()
        if self._options.dtype != "auto":
            return device, getattr(torch, self._options.dtype)
        parameters = sum(file.stat().st_size for file in weight_files(weights)) // 2
        small = parameters <= _FLOAT32_PARAMETERS and device.type == "cpu"
        return device, torch.float32 if small else best

    def _make_room(self, size: int) -> None:
        """Drop what is idle, the least recently used first, until `size` bytes are free."""
        with self._lock:
            for key in list(self._runners):
                held = sum(runner.usage().weights for runner in self._runners.values())
                if size + held <= self._weights_limit:
                    return
                if not self._used[key]:
                    for name in [n for n, a in self._adapters.items() if a.runner == key]:
                        self._drop(name)
                    del self._runners[key], self._folders[key]


def _give_back() -> None:
    """Have the C library return free memory; it keeps what lies between pieces in use.

    Adapters are many pieces of a few kilobytes to megabytes each, which come and go.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim is not None:
            trim(0)


def _name(model: Servable) -> str:
    return f"{model.kind} {model.key}"


def _unservable(model: Servable, error: CodetuneError) -> UnservableModelError:
    """The same reason without this machine's paths; the log has the whole."""
    message = error.message
    for folder in (model.folder, model.base.path):
        message = message.replace(f"{folder}/", "").replace(str(folder), "its folder")
    return UnservableModelError(f"'{model.id}' cannot be served: {message}", advice=error.advice)
