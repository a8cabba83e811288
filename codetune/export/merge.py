"""An adapter's change added to its base's weights, in float32, whatever it was trained on.

QLoRA trains beside a base in 4 or 8 bits. Its change is added to the base as it was before
quantising: that is what serving does, too, and what dequantised weights would spoil.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.errors import ExportError
from codetune.export.source import Source
from codetune.models.load import load_adapter, load_model

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_tuned(source: Source) -> nn.Module:
    """The model as it is served, in float32 on the CPU: its adapter stands beside the base.

    Raises:
        ModelError, UnsafeModelError: it cannot be loaded.
    """
    import torch

    model = load_model(source.whole, dtype=torch.float32, device="cpu")
    if not source.is_adapter:
        return model
    return load_adapter(model, source.folder, base=source.base)


def merged(model: nn.Module) -> nn.Module:
    """The same function as one model without an adapter; the argument is used up.

    Raises:
        ExportError: the sum is not finite.
    """
    if hasattr(model, "merge_and_unload"):  # PEFT's, which need not be imported for others
        tuned: Any = model
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5.23 for a property by its old name.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
            # In place: PEFT's own check for numbers would hold every weight twice.
            model = tuned.merge_and_unload(safe_merge=False)
    check_finite(model)
    return model.eval()


def check_finite(model: nn.Module) -> None:
    """Refuse weights that are no numbers, or have become infinite by rounding to float16.

    Raises:
        ExportError
    """
    import torch

    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ExportError(
                f"The weight {name} is not finite in {str(weight.dtype).removeprefix('torch.')}.",
                advice="If the model answers as it should, its weights are too large for this "
                "type: write bfloat16 or float32.",
            )


def save_weights(model: nn.Module, dtype: torch.dtype, folder: Path) -> None:
    """Write config.json and safetensors in `dtype`; the model itself is rounded to it."""
    model.to(dtype)
    check_finite(model)
    whole: Any = model
    whole.config.dtype = dtype
    with _without_bars():
        whole.save_pretrained(folder, max_shard_size="5GB")
    mode = (folder / "config.json").stat().st_mode
    for shard in folder.glob("*.safetensors"):
        shard.chmod(mode)  # safetensors writes it for the owner alone: who loads it may be another


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
