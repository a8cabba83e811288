"""`codetune doctor`: what this machine can do, and what is missing for the rest."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any

import click

from codetune.cli.options import json_option
from codetune.cli.terminal import print_json, size


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `ok` False means that something will not work."""

    name: str
    ok: bool
    found: str
    advice: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can do: memory, bf16, GPU, git, disk, the embedded model.

    Exits with code 2 when something that `codetune tune` needs is missing.

    \b
    Examples:
      codetune doctor
      codetune doctor --json
    """
    checks = [
        _python(),
        *_machine(),
        _home(),
        _git(),
        _grammars(),
        _base(),
    ]
    if as_json:
        print_json({"ok": all(c.ok for c in checks), "checks": [asdict(c) for c in checks]})
    else:
        for check in checks:
            mark = click.style("ok", fg="green") if check.ok else click.style("!!", fg="red")
            click.echo(f"{mark}  {check.name:<16} {check.found}")
            if check.advice:
                click.echo(f"    {'':<16} {check.advice}")
        if all(check.ok for check in checks):
            click.echo("\nReady.  Next: codetune tune PATH")
    if not all(check.ok for check in checks):
        raise click.exceptions.Exit(2)


def _python() -> Check:
    import torch
    import transformers

    from codetune import __version__

    return Check(
        "software",
        True,
        f"codetune {__version__}, Python {sys.version.split()[0]}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    )


def _machine() -> list[Check]:
    import torch

    from codetune.models.hardware import machine, matmul_flops, memory_available

    facts = machine()
    free = memory_available()
    checks = [
        Check(
            "processor",
            True,
            f"{facts.cores} cores, torch uses {torch.get_num_threads()} threads",
        ),
        Check(
            "memory",
            free > 2e9,
            f"{size(free)} free of {size(facts.memory)}",
            "" if free > 2e9 else "Tuning nano takes about 2 GB.",
        ),
    ]
    rates = {name: matmul_flops(name) / 1e12 for name in ("bfloat16", "float32")}
    checks.append(
        Check(
            "matrix product",
            True,
            f"{rates['bfloat16']:.2f} TFLOP/s in bf16, {rates['float32']:.2f} in float32: "
            + ("bf16 is used" if facts.bf16_fast else "float32 is used"),
        )
    )
    for name, memory in facts.gpus:
        checks.append(Check("GPU", True, f"{name}, {size(memory)}: {_fits(memory)}"))
    if not facts.gpus:
        checks.append(Check("GPU", True, f"none, and none is needed. {_fits(free)}"))
    return checks


# Rough needs of LoRA tuning in bytes a parameter: bf16 weights, activations, adapters and
# their optimizer state. The pre-flight of `codetune train` measures the real ones.
_LORA_BYTES = 4.0


def _fits(memory: float) -> str:
    billions = memory / _LORA_BYTES / 1e9
    shown = f"{billions:.0f}" if billions >= 1 else f"{billions:.1f}"
    return f"There is memory to tune models of up to about {shown} billion parameters with LoRA."


def _home() -> Check:
    from codetune.artifacts import home

    place = home()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / ".doctor").touch()
        (place / ".doctor").unlink()
    except OSError as error:
        return Check(
            "home",
            False,
            f"{place} cannot be written: {error.strerror}",
            "Set CODETUNE_HOME to a folder of your own.",
        )
    return Check("home", free > 1e9, f"{place}, {size(free)} free")


def _git() -> Check:
    from codetune.errors import SourceError
    from codetune.sources.clone import BINDS
    from codetune.sources.git import git_version

    try:
        version = git_version()
    except SourceError:
        return Check("git", False, "not found", "Install git; folders and archives work without.")
    found, needed = (".".join(map(str, numbers)) for numbers in (version, BINDS))
    advice = f"A server's users need {needed} or newer to have public addresses read."
    return Check("git", True, found, advice if version < BINDS else "")


def _grammars() -> Check:
    from codetune.syntax.parse import HAS_GRAMMAR, top_level_spans

    missing = []
    for name in sorted(HAS_GRAMMAR):
        try:
            top_level_spans("x", name)
        except ImportError:
            missing.append(name)
    there = ", ".join(sorted(HAS_GRAMMAR - set(missing)))
    return Check(
        "grammars",
        not missing,
        there,
        f"Missing: {', '.join(missing)}. Install codetune again with pip." if missing else "",
    )


def _base() -> Check:
    from codetune.errors import CodetuneError
    from codetune.models.load import load_model, resolve_base

    try:
        base = resolve_base("nano")
        model: Any = load_model(base.path)
    except CodetuneError as error:
        return Check("embedded model", False, error.message, error.advice)
    parameters = sum(p.numel() for p in model.parameters())
    return Check("embedded model", True, f"nano, {parameters / 1e6:.1f} M parameters, loads")
