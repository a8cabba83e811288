"""How Ollama describes a model: its tag, its file, its template in Go's notation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from codetune.errors import RegistryError
from codetune.models.load import read_json, safetensors_header, weight_files
from codetune.models.prompts import Renderer
from codetune.serving.catalog import Listed
from codetune.serving.complete import Voice
from codetune.serving.engine import Servable

_LATEST = ":latest"


def tag_of(name: str) -> str:
    """Our name for Ollama's: `shop:latest` is `shop`."""
    return name.removesuffix(_LATEST)


@contextmanager
def missing(name: str) -> Iterator[None]:
    """Say in Ollama's words that there is no such model: clients look for them."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(f"model '{name}' not found") from error


def as_listed(entry: Listed, model: Servable | None) -> dict[str, Any]:
    """An entry of /api/tags; without details where the model cannot be served."""
    name = entry.id if ":" in entry.id else entry.id + _LATEST
    base = model.base.digest if model else ""
    digest = hashlib.sha256(f"{base} {entry.root} {entry.created}".encode())
    return {
        "name": name,
        "model": name,
        "modified_at": _instant(entry.created),
        "size": _sizes(_weights(model))[0] + _adapter_bytes(model) if model else 0,
        "digest": digest.hexdigest(),  # names this version; Ollama's is that of a manifest
        "details": _details(model) if model else {"format": "", "family": "", "families": []},
    }


def as_shown(name: str, model: Servable, voice: Voice) -> dict[str, Any]:
    """The answer of /api/show."""
    renderer = voice.renderer
    config = read_json(_weights(model) / "config.json")
    architecture = str(config.get("model_type", model.base.architecture))
    template, parameters = _template(renderer), _parameters(renderer, voice.window)
    info = {
        "general.architecture": architecture,
        "general.basename": model.id,
        "general.parameter_count": _sizes(_weights(model))[1],
        f"{architecture}.context_length": voice.window,
        f"{architecture}.embedding_length": config.get("hidden_size", config.get("n_embd")),
        f"{architecture}.block_count": config.get("num_hidden_layers", config.get("n_layer")),
    }
    insert = ["insert"] if renderer.fim is not None else []
    return {
        "license": "",
        "modelfile": _modelfile(name, template, parameters),
        "parameters": parameters,
        "template": template,
        "details": _details(model),
        "model_info": {key: value for key, value in info.items() if value is not None},
        "capabilities": ["completion", *insert],
        "modified_at": _instant(model.created),
    }


def _template(renderer: Renderer) -> str:
    """Go's notation of what `generate` renders: clients look for .Suffix in it."""
    if renderer.fim is None:
        return "{{ .Prompt }}"
    family = renderer.fim.family
    blank = " " if family.leading_space else ""
    fim = f"{family.prefix}{blank}{{{{ .Prompt }}}}{blank}{family.suffix}"
    fim += f"{{{{ .Suffix }}}}{blank}{family.middle}"
    return f"{{{{- if .Suffix }}}}{fim}{{{{- else }}}}{{{{ .Prompt }}}}{{{{- end }}}}"


def _parameters(renderer: Renderer, window: int) -> str:
    names = sorted(name for name, number in renderer.markup.items() if number in renderer.fim_stops)
    lines = [f"num_ctx {window}", *(f"stop {json.dumps(n, ensure_ascii=False)}" for n in names)]
    return "\n".join(lines)


def _modelfile(name: str, template: str, parameters: str) -> str:
    lines = [f"PARAMETER {line}" for line in parameters.splitlines()]
    return "\n".join([f"FROM {name}", f'TEMPLATE """{template}"""', *lines])


def _details(model: Servable) -> dict[str, Any]:
    family = model.base.architecture
    _, count, dtype = _sizes(_weights(model))
    return {
        "parent_model": model.base.name if model.kind == "adapter" else "",
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M",
        "quantization_level": dtype,
    }


def _weights(model: Servable) -> Path:
    return model.base.path if model.kind == "adapter" else model.folder


def _adapter_bytes(model: Servable) -> int:
    file = model.folder / "adapter_model.safetensors"
    return file.stat().st_size if model.kind == "adapter" and file.is_file() else 0


@lru_cache(maxsize=256)
def _sizes(weights: Path) -> tuple[int, int, str]:
    """Bytes on the disk, parameters, and the type of most of them; weights never change."""
    files = weight_files(weights)
    counts: dict[str, int] = {}
    for file in files:
        for tensor in safetensors_header(file).values():
            size = 1
            for side in tensor["shape"]:
                size *= side
            counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + size
    most = max(counts, key=lambda name: counts[name])
    return sum(file.stat().st_size for file in files), sum(counts.values()), most


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
