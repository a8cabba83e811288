"""Find a base model and load it, or an adapter on it, without running anything it brings along.

Only safetensors are read; a pickle beside them is never opened, and a folder that holds only
pickles, or that names Python code of its own (`auto_map`), is refused.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.errors import ModelError, UnsafeModelError
from codetune.models.architecture import is_seq2seq
from codetune.models.hardware import machine
from codetune.models.places import EMBEDDED, base_folder, find_base, first_line
from codetune.models.quantised import Bits, keep_layout, quantisation, quiet_bitsandbytes

if TYPE_CHECKING:
    import torch

BASE_FILE = "base.json"  # beside an adapter: the base it was trained on, and its digest
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors format itself


@dataclass(frozen=True)
class Parent:
    """A registered adapter that another one is to be trained on top of."""

    id: str  # as in the registry, "name:version"
    path: Path  # the adapter's folder
    digest: str  # SHA-256 over its weights


@dataclass(frozen=True)
class BaseModel:
    """A base model on this disk; `digest` is the SHA-256 over its weights.

    With `parent`, training goes on from that adapter; the base is still the whole model below.
    """

    name: str
    path: Path
    digest: str
    architecture: str
    parent: Parent | None = None


def resolve_base(name: str, tuned: Iterable[str] = ()) -> BaseModel:
    """Find the base called `name`: the embedded one, a folder, or an id of the Hugging Face hub.

    `tuned` are names of tuned models, one of which may be meant where there is no such base.

    Raises:
        ModelError: there is no such model, or its folder is incomplete or damaged.
        UnsafeModelError: its folder brings code or pickles instead of safetensors.
    """
    path = find_base(name, tuned)
    config = check_folder(path)
    if not (path / "tokenizer.json").is_file():
        raise ModelError(
            f"The base '{name}' has no tokenizer.json.",
            advice="codetune needs the fast tokenizer; AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…) writes one beside the model.",
        )
    # A card keeps the name: it has to mean the same wherever somebody reads it.
    known = name if name in EMBEDDED or base_folder(name) is None else str(path)
    return BaseModel(known, path, weights_digest(path), str(config["model_type"]))


def check_folder(path: Path) -> dict[str, Any]:
    """Check that a model folder is complete and safe to load; return its config.json.

    Raises:
        ModelError: a file is missing, truncated or not what its name says.
        UnsafeModelError: loading it would mean unpickling, or running code from it.
    """
    if not path.is_dir():
        raise ModelError(f"{path} is not a model folder.")
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise ModelError(
            f"{path} holds an adapter, not a whole model.",
            advice="Name the base that the adapter was trained on.",
        )
    config = read_json(path / "config.json")
    for part in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (path / part).exists() and "auto_map" in read_json(path / part):
            raise UnsafeModelError(
                f"{path / part} asks to run Python code that comes with the model (auto_map).",
                advice="codetune never runs it. If transformers knows the architecture "
                f"('{config.get('model_type')}') itself, remove the auto_map key.",
            )
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path / 'config.json'} does not say which architecture it is.")
    for file in weight_files(path):
        safetensors_header(file)
    return config


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder, in their order.

    Raises:
        ModelError: there are none, or one that the index names is missing.
        UnsafeModelError: there are only pickles, or the index points out of the folder.
    """
    index = path / "model.safetensors.index.json"
    if not index.exists() and (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelError(f"{index} names no files.", advice="Fetch the model again.")
        names = sorted({str(name) for name in shards.values()})
        if unsafe := [n for n in names if Path(n).name != n or not n.endswith(".safetensors")]:
            raise UnsafeModelError(f"{index} names a file that it may not: '{unsafe[0]}'.")
        if missing := [name for name in names if not (path / name).is_file()]:
            raise ModelError(f"{path / missing[0]} is missing.", advice="Fetch the model again.")
        return [path / name for name in names]
    if pickles := _pickles(path):
        raise UnsafeModelError(
            f"{path} has no safetensors, only {pickles[0].name}, which can run code when opened.",
            advice="Ask for a safetensors version, or convert it where you trust its author: "
            "model.save_pretrained(folder, safe_serialization=True).",
        )
    raise ModelError(f"{path} holds no model.safetensors.", advice="Name a folder with a model.")


def safetensors_header(file: Path) -> dict[str, Any]:
    """The name, dtype, shape and place of each tensor of a file, whose size must agree with them.

    Raises:
        ModelError: it is truncated or not a safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError(f"it should have {8 + length + max(ends, default=0)} bytes: {size}")
        return dict(header)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{file} is truncated or damaged: {error}.", advice="Fetch or write it again."
        ) from error


def weights_digest(path: Path) -> str:
    """SHA-256 (hexadecimal) over the weights and the config of a model folder."""
    total = hashlib.sha256()
    for file in [path / "config.json", *weight_files(path)]:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def parent_of(model_id: str, folder: Path, base: BaseModel) -> Parent:
    """The adapter in `folder`, made for `base`, as the parent of another.

    Raises:
        ModelError, UnsafeModelError: as `load_adapter`.
    """
    check_adapter(folder, base=base)
    with (folder / "adapter_model.safetensors").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Parent(model_id, folder, digest)


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    """Where models run here, and bf16 where this machine is fast at it, else float32."""
    import torch

    facts = machine()
    device = torch.device("cuda" if facts.gpus else "cpu")
    return device, torch.bfloat16 if facts.bf16_fast else torch.float32


def load_model(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    quantise: Bits | None = None,
) -> torch.nn.Module:
    """Load a language model, causal or encoder with decoder (T5), in evaluation mode.

    `dtype` and `device` are this machine's best by default. With `quantise` its linear layers
    are kept in 4 or 8 bits (only to train an adapter on it).

    Raises:
        ModelError: the folder is damaged or transformers does not know the architecture.
        UnsafeModelError: loading it could run foreign code.
        MissingExtraError: `quantise` without bitsandbytes.
    """
    config = check_folder(path)
    import torch
    import transformers

    best_device, best_dtype = device_and_dtype()
    place = torch.device(device) if device is not None else best_device
    more: dict[str, Any] = {}
    if quantise is not None:
        more["quantization_config"] = quantisation(quantise, dtype or best_dtype)
        more["device_map"] = {"": place}
    kind = (
        transformers.AutoModelForSeq2SeqLM
        if is_seq2seq(config)
        else transformers.AutoModelForCausalLM
    )
    with _quiet_transformers(), quiet_bitsandbytes():
        try:
            model: torch.nn.Module = kind.from_pretrained(
                path,
                dtype=dtype or best_dtype,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                **more,
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} cannot be loaded: {first_line(error)}",
                advice="It must be a language model that transformers "
                f"{transformers.__version__} knows.",
            ) from error
    if quantise is not None:
        keep_layout(model)
        return model.eval()
    return model.to(place).eval()


def load_adapter(
    model: torch.nn.Module, path: Path, *, base: BaseModel | None = None, name: str = "default"
) -> torch.nn.Module:
    """Put the LoRA adapter in `path` on `model`; returns the PEFT model in evaluation mode.

    With `base` the adapter must have been trained on exactly these weights. The base that
    the adapter's own config names is never looked up.

    Raises:
        ModelError: the adapter is damaged, of another kind, or belongs to another base.
        UnsafeModelError: it is a pickle, or names Python classes to import.
    """
    check_adapter(path, base=base)
    with quiet_bitsandbytes():
        import peft

    try:
        if isinstance(model, peft.PeftModel):
            model.load_adapter(
                str(path), adapter_name=name, is_trainable=False, autocast_adapter_dtype=False
            )
            tuned: torch.nn.Module = model
        else:
            with warnings.catch_warnings():
                # PEFT 0.21 asks transformers 5.23 for a property by its old name.
                warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
                tuned = peft.PeftModel.from_pretrained(
                    model,
                    str(path),
                    adapter_name=name,
                    is_trainable=False,
                    autocast_adapter_dtype=False,  # float32 beside a bf16 base would be slow
                )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"The adapter in {path} does not fit this base: {first_line(error)}",
            advice="Use the base that it was trained on.",
        ) from error
    return tuned.eval()


def check_adapter(path: Path, *, base: BaseModel | None = None) -> dict[str, Any]:
    """Check that an adapter folder is complete, safe and made for `base`; return its config.

    Raises:
        ModelError, UnsafeModelError: as `load_adapter`.
    """
    config = read_json(path / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{path} is a {config.get('peft_type')} adapter; codetune loads LORA.")
    if config.get("auto_mapping") or "auto_map" in config:
        raise UnsafeModelError(f"{path / 'adapter_config.json'} names Python classes to import.")
    weights = path / "adapter_model.safetensors"
    if not weights.exists():
        if pickles := _pickles(path):
            raise UnsafeModelError(
                f"{path} has no safetensors, only {pickles[0].name}, "
                "which can run code when opened.",
                advice="Ask for a safetensors version of the adapter.",
            )
        raise ModelError(f"{weights} is missing.", advice="Name a folder with a whole adapter.")
    safetensors_header(weights)
    if base is not None:
        if not (path / BASE_FILE).exists():
            raise ModelError(
                f"The adapter in {path} does not say on which weights it was trained: it has no "
                f"{BASE_FILE}, only a name, {config.get('base_model_name_or_path')!r}.",
                advice=f"If it was '{base.name}' as it is here, write into {BASE_FILE}: "
                f"{json.dumps({'name': base.name, 'digest': base.digest})}",
            )
        trained_on = read_json(path / BASE_FILE)
        if trained_on.get("digest") != base.digest:
            raise ModelError(
                f"The adapter in {path} was trained on another base than '{base.name}' with digest "
                f"{base.digest[:12]}: {trained_on.get('name')!r} with digest "
                f"{str(trained_on.get('digest'))[:12]}.",
                advice="Use the base that it was trained on; an adapter says nothing on another.",
            )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A model folder's JSON object.

    Raises:
        ModelError: it is missing or not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} has no {path.name}.", advice="Name a folder with a whole model."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object.")
    return value


def _pickles(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix in _PICKLES)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars of transformers' own: codetune shows progress in one way."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
