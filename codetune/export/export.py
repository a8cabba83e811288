"""The verb of exporting: a model becomes files that others load, proved to be the same model.

    load → ask → merge → compare → write → read back → compare → card

Only what has passed both comparisons is given its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune import __version__
from codetune.artifacts import write_json
from codetune.errors import ExportError, ParityError
from codetune.export import llamacpp, modelfile
from codetune.export.architectures import Layout
from codetune.export.card import write_card
from codetune.export.config import ExportOptions
from codetune.export.folder import check_room, written_beside
from codetune.export.gguf_file import read_into, require_gguf, write_gguf
from codetune.export.llamacpp import Spoken, through_llamacpp
from codetune.export.merge import load_tuned, merged, save_weights
from codetune.export.parity import (
    Answers,
    Parity,
    Reference,
    compare,
    greedy_text,
    reference_of,
    require_close,
    require_equal,
)
from codetune.export.probes import TEXTS, probes_for
from codetune.export.source import Source
from codetune.export.speech import says_the_same, write_speech
from codetune.export.vocabulary import split_of
from codetune.models.hardware import memory_available
from codetune.models.load import load_model, read_json
from codetune.models.prompts import Renderer
from codetune.progress import Progress

if TYPE_CHECKING:
    from torch import nn

PARITY = "parity.json"
_BYTES: dict[str, float] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "f32": 4,
    "f16": 2,
    "bf16": 2,
}
_BYTES |= {"q8_0": 1.07, "q5_1": 0.8, "q5_0": 0.75, "q4_1": 0.7, "q4_0": 0.65}
_MEMORY = 8.0  # bytes a parameter, at the peak: the engine holds some projections twice


@dataclass(frozen=True)
class Exported:
    """What was written: `files` by name with their sizes in bytes, all in `folder`."""

    folder: Path
    files: Mapping[str, int]
    parity: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Exported:
        """What lies in a finished export's folder.

        Raises:
            ModelError: it is none, or damaged.
        """
        files = {
            path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()
        }
        return cls(folder, files, read_json(folder / PARITY))

    @property
    def model(self) -> str:
        return str(self.parity["model"])

    @property
    def format(self) -> str:
        return str(self.parity["format"])

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "folder": str(self.folder),
            "format": self.format,
            "files": dict(self.files),
            "parity": dict(self.parity),
        }


def export(
    source: Source, options: ExportOptions, target: Path, answers: Answers, progress: Progress
) -> Exported:
    """Write `source` to the new folder `target`; `answers` is how the server answers with it.

    Raises:
        ExportError: it has no form in this format, or there is no room for it.
        ParityError: what was written is not the model; nothing is kept.
        ModelError, UnsafeModelError: it cannot be loaded.
        MissingExtraError: GGUF without the package gguf.
    """
    precision = _precision(source, options)
    _check_first(source, options, target, precision)
    with written_beside(target) as folder:
        model, reference, merging = _merge(source, answers, progress)
        if options.format == "gguf":
            found, warnings = _gguf(source, options, model, reference, folder, progress)
        else:
            found, warnings = _safetensors(source, precision, model, reference, folder, progress)
        del model
        record = _record(source, options, precision, merging, found, warnings)
        write_json(folder / PARITY, record)
        first = found[0]
        assert isinstance(first, Parity)
        write_card(source, source.card.name, first, folder)
    for warning in warnings:
        progress.say(warning)
    return Exported.of(target)


def _precision(source: Source, options: ExportOptions) -> str:
    if options.format == "gguf":
        return options.quantise
    return source.dtype if options.dtype == "auto" else options.dtype


def _check_first(source: Source, options: ExportOptions, target: Path, precision: str) -> None:
    """What can be known before anything is loaded."""
    if options.format == "gguf":
        require_gguf()
        Layout(source.config)
        split_of(read_json(source.tokenizer / "tokenizer.json"), source.tokenizer)
    check_room(target, int(source.parameters * _BYTES[precision]))
    wanted, free = int(source.parameters * _MEMORY), memory_available()
    if wanted > free:
        raise ExportError(
            f"Merging in float32 takes about {wanted / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free.",
            advice="Stop what else uses memory here, or export on a larger machine.",
        )


def _merge(
    source: Source, answers: Answers, progress: Progress
) -> tuple[nn.Module, Reference, Parity]:
    """The merged model in float32, what it has to say, and how exactly merging kept that."""
    with progress.task("Asking the model", total=3, unit="steps") as task:
        probes = probes_for(source.renderer, source.config.get("max_position_embeddings"))
        given = answers(probes)  # before anything else takes memory
        task.advance()
        model, base = load_tuned(source), _base_below(source)
        reference = reference_of(model, probes, given, base)
        del base
        task.advance()
        whole = merged(model)
        found = compare(reference, whole, name="The merged model", precision="float32")
        require_equal(found, reference)
        task.advance()
    return whole, reference, found


def _base_below(source: Source) -> nn.Module | None:
    """The base of a model that was tuned in full, to see what tuning changed."""
    if source.card.kind != "full":
        return None
    import torch

    return load_model(source.base.path, dtype=torch.float32, device="cpu")


def _safetensors(
    source: Source,
    precision: str,
    model: nn.Module,
    reference: Reference,
    folder: Path,
    progress: Progress,
) -> tuple[list[Parity | Spoken], list[str]]:
    import torch

    with progress.task("Writing safetensors", total=2, unit="steps") as task:
        save_weights(model, getattr(torch, precision), folder)
        write_speech(source, folder)
        task.advance()
        if not says_the_same(source.renderer, Renderer.from_folder(folder), list(TEXTS)):
            raise ParityError(
                "The tokenizer that was written does not write the ids of the model's own.",
                advice="This is a defect of codetune; please report it with the base's name.",
            )
        model.to("meta")  # its memory is the next one's
        # As whoever uses the folder will: by transformers alone, nothing of ours in between.
        written = load_model(folder, dtype=torch.float32, device="cpu")
        found = compare(
            reference,
            written,
            name="What transformers loads from the folder",
            precision=precision,
            greedy=greedy_text(written),
        )
        require_close(found)
        task.advance()
    return [found], _rounding(found)


def _gguf(
    source: Source,
    options: ExportOptions,
    model: nn.Module,
    reference: Reference,
    folder: Path,
    progress: Progress,
) -> tuple[list[Parity | Spoken], list[str]]:
    file = folder / file_name(source, options)
    write_gguf(model, source, options.quantise, file, progress)
    read_into(model, file, source.config)
    found = compare(reference, model, name="What the GGUF file holds", precision=options.quantise)
    require_close(found)
    warnings = _rounding(found) + modelfile.write_modelfile(source, file.name, folder)
    if not llamacpp.is_installed():
        warnings.append(
            "llama.cpp (the package xllamacpp) is not installed: the file was read back and "
            "compared, and not run."
        )
        return [found], warnings
    spoken = through_llamacpp(source, reference, model, file, options.quantise)
    return [found, spoken], warnings


def _rounding(found: Parity) -> list[str]:
    """What is to be said of rounding that is within bounds and can still be seen."""
    if found.same_texts == found.texts:
        return []
    return [
        f"Rounded to {found.precision}, {found.texts - found.same_texts} of {found.texts} greedy "
        f"answers end otherwise than the model's ({found.divergence:.2g} nats a token; tuning "
        f"has moved its base by {found.changed_by_tuning:.2g})."
    ]


def _record(
    source: Source,
    options: ExportOptions,
    precision: str,
    merging: Parity,
    found: list[Parity | Spoken],
    warnings: list[str],
) -> dict[str, Any]:
    return {
        "codetune": __version__,
        "model": source.card.id,
        "format": options.format,
        "base_digest": source.base.digest,
        "precision": precision,
        "reference": "the model as codetune serves it: base and adapter in float32",
        "merged": merging.as_json(),
        "written": [one.as_json() for one in found],
        "warnings": warnings,
    }


def file_name(source: Source, options: ExportOptions) -> str:
    """What the one file is called: the model's name without what a path could be made of."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.card.name).strip("-.") or "model"
    return f"{plain}-{options.quantise}.gguf"
