"""Training methods as data: what is trained, its default learning rate, and how it is saved."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import write_json
from codetune.errors import TrainingError, nearest
from codetune.models.architecture import (
    count_parameters,
    has_transposed_layers,
    linear_layers,
    turn_off_dropout,
)
from codetune.models.load import BASE_FILE, BaseModel, Parent, load_model
from codetune.models.prompts.templates import TEMPLATE_FILE
from codetune.models.quantised import Bits
from codetune.training.adapters import speed_up
from codetune.training.attention import NAME as ATTENTION
from codetune.training.config import TrainingOptions
from codetune.training.stack import join, put_below, refuse_unless_plain

if TYPE_CHECKING:
    import torch
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
    TEMPLATE_FILE,
    "generation_config.json",
)


@dataclass(frozen=True)
class Method:
    """A way to tune: what it trains on what kind of base, and the peak rate it wants."""

    name: str
    learning_rate: float  # the best peak for a model of `_MEASURED` parameters
    shrink: float  # the power of the model's size with which it falls
    adapter: bool = True
    dora: bool = False
    bits: Bits | None = None  # the base's linear layers while it trains

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
    "dora": Method("dora", learning_rate=1.5e-3, shrink=0.45, dora=True),
    "qlora": Method("qlora", learning_rate=1.5e-3, shrink=0.45, bits="nf4"),
    "qlora8": Method("qlora8", learning_rate=1.5e-3, shrink=0.45, bits="int8"),
    "full": Method("full", learning_rate=1e-3, shrink=0.6, adapter=False),
}


_SMALL = 50_000_000


def rank_of(options: TrainingOptions, parameters: int, *, on_adapter: bool = False) -> int:
    """The rank of LoRA's matrices on a base of so many weights.

    On nano 64 learns at least a third more than 16 at the same forgetting limit, and every weight
    more still (docs/results.md); on bases of half a billion weights and more the field's 16 holds
    tens of times as many numbers.
    """
    if options.rank is not None:
        return options.rank
    return 64 if parameters < _SMALL and not on_adapter else 16


def load_base(
    base: BaseModel,
    options: TrainingOptions,
    *,
    dtype: torch.dtype,
    device: torch.device,
    bits: Bits | None = None,
) -> nn.Module:
    """The base as the method wants it: in `dtype`, or its linear layers in 4 or 8 bits.

    `bits` overrides the method's, when memory ran out.

    Raises:
        ModelError, UnsafeModelError, MissingExtraError: as `load_model`.
        TrainingError: the architecture cannot be quantised.
    """
    bits = bits or METHODS[options.method].bits
    model = load_model(base.path, dtype=dtype, device=device, quantise=bits)
    if bits and has_transposed_layers(model):
        raise TrainingError(
            f"'{base.name}' has GPT-2's transposed layers, which are not quantised.",
            advice="Use training.method=lora: models of this family are small.",
        )
    return model


def prepare(
    model: nn.Module,
    options: TrainingOptions,
    *,
    parent: Parent | None = None,
    speed: bool = True,
) -> nn.Module:
    """The model with exactly the weights to train marked so; LoRA adds its own (PEFT).

    The adapter `parent` stays beside them, frozen. With `speed`, LoRA's layers use the short
    forward of `adapters`.

    Raises:
        TrainingError: the method cannot build on an adapter.
    """
    turn_off_dropout(model)
    method = METHODS[options.method]
    if parent is not None:
        check_parent(parent, method)
    if not method.adapter:
        for weight in model.parameters():
            weight.requires_grad_(weight.is_floating_point())
        return model
    import peft

    rank = rank_of(options, count_parameters(model), on_adapter=parent is not None)
    with _quiet_peft():
        # The adapters compute in the base's precision; their float32 masters are the optimizer's.
        tuned: nn.Module = peft.get_peft_model(
            model, _lora_config(model, options, rank), autocast_adapter_dtype=False
        )
    if parent is not None:
        put_below(tuned, parent)
    if speed:
        speed_up(tuned)
    return tuned


def check_parent(parent: Parent, method: Method) -> None:
    """Refuse what cannot be built on `parent`.

    Raises:
        TrainingError: the method, or the parent's own, is not plain LoRA.
    """
    if not method.adapter or method.dora:
        raise TrainingError(
            f"'{method.name}' cannot build on the adapter '{parent.id}'.",
            advice="Use training.method=lora or qlora, or a base that is no adapter.",
        )
    refuse_unless_plain(parent)


def _lora_config(model: nn.Module, options: TrainingOptions, rank: int) -> Any:
    import peft

    whole: Any = model
    return peft.LoraConfig(
        r=rank,
        lora_alpha=rank if options.alpha is None else options.alpha,
        use_rslora=options.rslora,
        use_dora=METHODS[options.method].dora,
        lora_dropout=options.dropout,
        target_modules=_targets(model, options.target_modules),
        fan_in_fan_out=has_transposed_layers(model),
        bias="none",
        task_type="SEQ_2_SEQ_LM" if whole.config.is_encoder_decoder else "CAUSAL_LM",
    )


def _targets(model: nn.Module, wanted: tuple[str, ...] | None) -> list[str]:
    """The layers' last names where these say it all, as other tools like to read them.

    Raises:
        TrainingError: a layer that is wanted does not exist.
    """
    layers = linear_layers(model)
    known = {name.rpartition(".")[2] for name in layers}
    if wanted is not None:
        if unknown := [name for name in wanted if name not in known]:
            raise TrainingError(
                f"training.target_modules: this base has no linear layer '{unknown[0]}'.",
                advice=nearest(unknown[0], known),
            )
        layers = [name for name in layers if name.rpartition(".")[2] in wanted]
    short = sorted({name.rpartition(".")[2] for name in layers})
    meant = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in short}
    return short if meant == set(layers) else layers


@contextmanager
def _quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        yield


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
        if not METHODS[options.method].adapter:
            attention = saved.config._attn_implementation
            if attention == ATTENTION:  # known to this process only
                saved.set_attn_implementation("sdpa")
            saved.save_pretrained(folder)
            if attention == ATTENTION:
                saved.set_attn_implementation(attention)
            for name in _TOKENIZER_FILES:
                if (base.path / name).exists():
                    shutil.copyfile(base.path / name, folder / name)
            return
        saved.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])
    finally:
        if bars:
            logging.enable_progress_bar()
    # PEFT writes where the base lay on this machine; what matters is which base it was.
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = base.name
    config["target_modules"] = sorted(config["target_modules"])  # PEFT's set has no order
    write_json(config_file, config)
    if base.parent is not None:
        join(base.parent, folder)
    write_json(folder / BASE_FILE, {"name": base.name, "digest": base.digest})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; the registry writes one


def keep_template(dataset: Path, parent: Parent | None, folder: Path) -> None:
    """Put the chat template of the learned conversations beside the weights in `folder`.

    It is the dataset's; without conversations there, the one of the adapter below.
    """
    for source in (dataset, parent.path if parent is not None else None):
        if source is not None and (source / TEMPLATE_FILE).is_file():
            shutil.copyfile(source / TEMPLATE_FILE, folder / TEMPLATE_FILE)
            return
