"""Training methods as data: what is trained, its default learning rate, and how it is saved."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import write_json
from codetune.errors import TrainingError
from codetune.models.load import BASE_FILE, BaseModel
from codetune.training.adapters import speed_up
from codetune.training.config import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

# Files of the base that a fully tuned model takes along, besides its weights and config.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True)
class Method:
    """A way to tune, and the peak learning rate it wants."""

    name: str
    learning_rate: float  # the best peak for a model of `_MEASURED` parameters
    shrink: float  # the power of the model's size with which it falls

    def learning_rate_for(self, parameters: int) -> float:
        """The default peak rate: larger models want smaller ones.

        The powers lead from the rates measured on nano to the field's usual ones at 1.5
        billion parameters: about 2e-4 (LoRA) and 3e-5 (full).
        """
        ratio = _MEASURED / max(parameters, _MEASURED)
        return self.learning_rate * float(ratio**self.shrink)


_MEASURED = 5_500_000  # nano, on whose validation losses the rates were chosen
METHODS = {
    "lora": Method("lora", learning_rate=1.5e-3, shrink=0.45),
    "full": Method("full", learning_rate=1e-3, shrink=0.6),
}


def prepare(model: nn.Module, options: TrainingOptions, *, speed: bool = True) -> nn.Module:
    """The model with exactly the weights to train marked so; LoRA adds its own (PEFT).

    With `speed`, LoRA's layers use the short forward of `adapters`.
    """
    if options.method == "full":
        for weight in model.parameters():
            weight.requires_grad_(weight.is_floating_point())
        return model
    import peft

    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.rank if options.alpha is None else options.alpha,
        use_rslora=True,
        lora_dropout=options.dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        # The adapters compute in the base's precision; their float32 masters are the optimizer's.
        tuned: nn.Module = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    if speed:
        speed_up(tuned)
    return tuned


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The weights to train by name, tied ones once."""
    found = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not found:
        raise TrainingError("The model has no weights to train.")
    return found


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy trained weights (by the names of `trained`) into the model."""
    import torch

    with torch.no_grad():
        for name, parameter in trained(model):
            parameter.copy_(weights[name])


def save_model(model: nn.Module, base: BaseModel, options: TrainingOptions, folder: Path) -> None:
    """Write the tuned model: an adapter that names its base, or a whole model."""
    from transformers.utils import logging

    folder.mkdir(parents=True, exist_ok=True)
    saved: Any = model
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        if options.method == "full":
            attention = saved.config._attn_implementation
            saved.set_attn_implementation("sdpa")
            saved.save_pretrained(folder)
            saved.set_attn_implementation(attention)
            for name in _TOKENIZER_FILES:
                if (base.path / name).exists():
                    shutil.copyfile(base.path / name, folder / name)
            return
        saved.save_pretrained(folder, save_embedding_layers=False)
    finally:
        if bars:
            logging.enable_progress_bar()
    # PEFT writes where the base lay on this machine; what matters is which base it was.
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = base.name
    write_json(config_file, config)
    write_json(folder / BASE_FILE, {"name": base.name, "digest": base.digest})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; the registry writes one
