"""Bases whose weights are kept in 4 or 8 bits while an adapter is trained on them.

4 bits: NormalFloat with double quantisation (QLoRA, Dettmers et al. 2023, arXiv 2305.14314);
8 bits: LLM.int8() (arXiv 2208.07339). Both through bitsandbytes, on GPUs and on CPUs.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from codetune.errors import MissingExtraError

if TYPE_CHECKING:
    import torch
    from torch import nn

Bits = Literal["nf4", "int8"]
EXTRA = "quant"


def bitsandbytes_for(feature: str) -> Any:
    """The bitsandbytes module.

    Raises:
        MissingExtraError: bitsandbytes is not installed; the message holds the pip line.
    """
    if "bitsandbytes" not in sys.modules and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(feature, EXTRA)
    with quiet_bitsandbytes():
        return importlib.import_module("bitsandbytes")


def quantisation(bits: Bits, dtype: torch.dtype) -> Any:
    """What `from_pretrained` is told; `dtype` is that of the products.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    bitsandbytes_for("Training on a quantised base (QLoRA)")
    from transformers import BitsAndBytesConfig

    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_layout(model: nn.Module) -> None:
    """Keep 4-bit weights as they are on CPUs.

    In evaluation mode bitsandbytes packs them anew for faster answers, and with that layout
    training fails afterwards, as do layers whose width is no multiple of 32.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            packed: Any = layer
            packed.support_avx512bf16_for_cpu = False


@contextmanager
def rows_alone(model: nn.Module) -> Iterator[None]:
    """Within the block an 8-bit layer rounds each row of its input by itself.

    LLM.int8() computes the columns with outliers apart, and finds these in the whole batch: what
    one document says changes how another's activations are rounded (by about 1 %). That is no
    attention between documents, but a check for such attention would take it for one.
    """
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "state") and _is_8bit(m)]
    thresholds = [layer.state.threshold for layer in layers]
    for layer in layers:
        layer.state.threshold = 0.0
    try:
        yield
    finally:
        for layer, threshold in zip(layers, thresholds, strict=True):
            layer.state.threshold = threshold


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """No advice about kernels and casts, once a layer: nothing of it can be acted on.

    On CPUs with bf16 its import, which is PEFT's, too, asks the package `kernels`, where that is
    installed, to fetch compiled code from the hub: within the block it does not find it, for
    nothing here may call out unasked.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    hidden = "kernels" not in sys.modules
    if hidden:
        sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop("kernels", None)
        logger.setLevel(level)


def _is_8bit(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith("bitsandbytes") and hasattr(layer.weight, "SCB")
