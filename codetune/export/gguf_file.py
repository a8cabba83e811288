"""GGUF, the file of llama.cpp and Ollama: written tensor by tensor, and read back to compare.

Source: the GGUF specification (github.com/ggml-org/ggml/blob/master/docs/gguf.md); quantisation by
the `gguf` package, whose results are llama.cpp's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.errors import ExportError, MissingExtraError
from codetune.export.architectures import ROPE, Layout
from codetune.export.config import Quantisation
from codetune.export.source import Source
from codetune.export.vocabulary import add_vocabulary
from codetune.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

_FINER = ("token_embd.weight", "output.weight")  # not below 8 bits: all that is said goes by them
# What a value may be off after it was stored, in parts of itself, or of the largest in its block.
_ERROR = {
    "F32": 0.0,
    "F16": 2**-11,
    "BF16": 2**-8,
    "Q8_0": 1 / 220,
    "Q5_1": 1 / 28,
    "Q5_0": 1 / 14,
    "Q4_1": 1 / 13,
    "Q4_0": 1 / 6.5,
}
_SMALLEST = 2.0**-24  # of float16, below which values become steps of it
_BLOCK, _LEVELS = 32, 128


def require_gguf() -> None:
    """Raise MissingExtraError without the package that knows the format."""
    import importlib.util

    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("Writing GGUF", "gguf")


def write_gguf(
    model: nn.Module, source: Source, kind: Quantisation, file: Path, progress: Progress
) -> None:
    """Write `model` (merged, float32) with its tokenizer; matrices as `kind`, vectors in float32.

    Raises:
        ExportError: the architecture or the tokenizer has no form in GGUF.
        MissingExtraError: without the package gguf.
    """
    require_gguf()
    import gguf

    layout = Layout(source.config)
    writer = gguf.GGUFWriter(str(file), layout.architecture.name)
    try:
        _add_header(writer, source, kind, layout)
        weights = dict(_weights(model, layout))
        types = {name: _type_of(name, weight, kind) for name, weight in weights.items()}
        for name, weight in weights.items():
            writer.add_tensor_info(
                name,
                weight.shape,
                _numpy_type("float32"),
                _bytes_of(weight, types[name]),
                raw_dtype=types[name],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress.task("Writing GGUF", total=len(weights), unit="tensors") as task:
            for name, weight in weights.items():
                writer.write_tensor_data(_quantised(name, weight, types[name]))
                task.advance()
    finally:
        writer.close()


def _add_header(writer: Any, source: Source, kind: Quantisation, layout: Layout) -> None:
    import gguf

    card = source.card
    writer.add_type("model")
    writer.add_name(card.name)
    writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES[kind]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    layout.add_settings(writer)
    add_vocabulary(writer, source, int(layout.config["vocab_size"]))


_FILE_TYPES = {"f32": "ALL_F32"} | {
    kind: f"MOSTLY_{kind.upper()}"
    for kind in ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
}


def read_into(model: nn.Module, file: Path, config: dict[str, Any]) -> float:
    """Put what `file` holds in the place of the weights of `model`; returns the largest error.

    It is in parts of what the type of each tensor allows. The model is to be the one that was
    written.

    Raises:
        ExportError: a weight is missing there, or further off than its type explains.
    """
    import gguf
    import torch

    layout, reader = Layout(config), gguf.GGUFReader(str(file))
    stored = {tensor.name: tensor for tensor in reader.tensors}
    worst = 0.0
    with torch.no_grad():
        for name, weight in _named(model):
            tensor = stored.pop(layout.name(name), None)
            if tensor is None:
                raise ExportError(f"{file} has no tensor for {name}.")
            kind = gguf.GGMLQuantizationType(tensor.tensor_type)
            values = gguf.quants.dequantize(tensor.data, kind)
            there = torch.from_numpy(values.copy()).float().reshape(weight.shape)
            there = layout.restored(name, there)
            error = _error(weight, there, kind.name)
            if not error <= 1.0:
                raise ExportError(
                    f"{file}: {name} is {error:.1f} times as far from the model as "
                    f"{kind.name} explains.",
                    advice="This is a defect of codetune; please report it with the base's name.",
                )
            worst = max(worst, error)
            weight.copy_(there)
    stored.pop(ROPE, None)
    if stored:
        raise ExportError(f"{file} has tensors that the model has not: {', '.join(stored)}.")
    return worst


def _error(ours: Tensor, theirs: Tensor, kind: str) -> float:
    """The largest difference of two tensors in parts of what storing as `kind` may cost."""
    import torch

    difference = (ours - theirs).abs()
    if not kind.startswith("Q"):
        allowed = ours.abs() * _ERROR[kind] + (_SMALLEST if kind == "F16" else 0.0)
    else:
        blocks = ours.reshape(-1, _BLOCK).abs().amax(-1, keepdim=True)
        # A block's scale is itself rounded to float16, and counts once for each level.
        allowed = (blocks * _ERROR[kind] + _SMALLEST * _LEVELS).expand(-1, _BLOCK)
        allowed = allowed.reshape(ours.shape)
    off = difference > allowed
    if not bool(off.any()):
        scaled = difference / allowed.clamp_min(torch.finfo(torch.float32).tiny)
        return float(scaled.max())
    return float((difference / allowed.clamp_min(torch.finfo(torch.float32).tiny))[off].max())


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights as transformers names them, tied ones once."""
    yield from model.named_parameters()


def _weights(model: nn.Module, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    for name, weight in _named(model):
        yield layout.name(name), layout.stored(name, weight.detach())
    if (slowed := layout.frequencies()) is not None:
        import torch

        yield ROPE, torch.tensor(slowed)


def _type_of(name: str, weight: Tensor, kind: Quantisation) -> Any:
    """The type a tensor is stored in; one whose rows do not fill blocks keeps 16 bits."""
    import gguf

    types = gguf.GGMLQuantizationType
    if weight.dim() == 1:
        return types.F32
    if kind.startswith("q"):
        if weight.shape[-1] % _BLOCK:
            return types.F16
        if name in _FINER:
            return types.Q8_0
    return types[kind.upper()]


def _bytes_of(weight: Tensor, kind: Any) -> int:
    import gguf

    values, size = gguf.GGML_QUANT_SIZES[kind]
    return int(weight.numel() // values * size)


def _quantised(name: str, weight: Tensor, kind: Any) -> np.ndarray:
    import gguf
    import numpy as np

    with np.errstate(over="ignore"):
        made: np.ndarray = gguf.quants.quantize(weight.contiguous().float().numpy(), kind)
    if made.dtype.kind == "f" and not np.isfinite(made).all():
        raise ExportError(
            f"The weight {name} is too large for {kind.name}.", advice="Use --quantize bf16."
        )
    return made


def _numpy_type(name: str) -> Any:
    import numpy as np

    return np.dtype(name)
