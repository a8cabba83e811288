"""Where a base lies: with codetune, in a folder, in a home that was moved, or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from codetune.artifacts import home
from codetune.errors import ModelError, nearest

EMBEDDED = {"nano": Path(__file__).parent / "nano" / "weights"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "merges.txt", "LICENSE*"]


def names_a_base(name: str) -> bool:
    """Whether `name` can be that of a base, if it is not a folder's."""
    return name in EMBEDDED or _HUB_ID.fullmatch(name) is not None


def find_base(name: str, tuned: Iterable[str] = ()) -> Path:
    """The folder of the base called `name`, fetched if it is an id of the hub.

    `tuned` are other names that a user may have meant, of models to go on from.

    Raises:
        ModelError: there is no such model.
    """
    if name in EMBEDDED:
        if not EMBEDDED[name].is_dir():
            raise ModelError(f"The embedded model '{name}' is not part of this installation.")
        return EMBEDDED[name]
    if (folder := base_folder(name)) is not None:
        return folder
    if names_a_base(name):
        return _fetch(name)
    known = nearest(name, [*EMBEDDED, *tuned])
    raise ModelError(
        f"There is no base model '{name}'.",
        advice=f"It is a folder, or an id of the hub (owner/name). {known}",
    )


def base_folder(name: str) -> Path | None:
    """The folder called `name`: in this home, if it is a model of one that was moved here."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    here = home().joinpath(*folder.parts[-3:])  # as the registry keeps it, models/VERSION/model
    ours = folder.is_absolute() and folder.parts[-3:-2] == ("models",) and here.is_dir()
    return here.resolve() if ours else None


def _fetch(name: str) -> Path:
    """Bring a model from the hub (or its cache) without its pickles."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:
        # huggingface_hub raises its own, httpx's and OSErrors: this is the one boundary.
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        raise ModelError(
            f"'{name}' is no folder, and the hub does not give it: {first_line(error)}",
            advice="HF_HUB_OFFLINE is set: only models already fetched can be used."
            if offline
            else "Check the name and the network, or give a folder.",
        ) from error


def first_line(error: BaseException) -> str:
    """What a library's error says, in short."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")[:300]
