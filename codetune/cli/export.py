"""`codetune export`: a model as files for other programs, or as a model of an Ollama server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codetune.cli.options import json_option
from codetune.cli.terminal import print_json, progress_shown, size

if TYPE_CHECKING:
    from codetune.export.config import ExportOptions
    from codetune.export.export import Exported

# As ExportOptions has them; a test keeps them equal.
QUANTISATIONS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@click.command()
@click.argument("model")
@click.option(
    "--format",
    "form",
    type=click.Choice(("safetensors", "gguf")),
    default="safetensors",
    help="safetensors: a folder that transformers and vLLM load. gguf: a file for llama.cpp and "
    "Ollama, with a Modelfile; needs the extra [gguf].  [safetensors]",
)
@click.option(
    "--quantize",
    "quantise",
    type=click.Choice(QUANTISATIONS),
    help="Type of the matrices in a GGUF file.  [f16]",
)
@click.option(
    "--dtype",
    type=click.Choice(PRECISIONS),
    help="Precision of merged safetensors; auto: as the base is stored.  [auto]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The new folder to write.  [MODEL-FORMAT, here]",
)
@json_option
def export(
    model: str,
    form: str,
    quantise: str | None,
    dtype: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write MODEL for other programs, proved to answer as the model does.

    An adapter is merged into its unquantised base. Tokenizer, chat template, stop and
    fill-in-the-middle tokens go along. What was written is loaded again and compared with the
    model as it is served, token by token (parity.json); if it is not the same, nothing is kept.

    \b
    Examples:
      codetune export shop
      codetune export shop:2 --dtype float32 --out /models/shop
      codetune export shop --format gguf --quantize q8_0
    """
    from codetune.artifacts import home
    from codetune.delivery import export_model
    from codetune.registry.cards import Registry

    options = export_options(form, quantise, dtype)
    registry = Registry(home())
    target = out or Path(folder_name(registry.get(model).id, form))
    with progress_shown(quiet=as_json) as progress:
        made = export_model(registry, model, options, target.absolute(), progress)
    if as_json:
        print_json(made.as_json())
    else:
        _show(made)


def export_options(form: str, quantise: str | None, dtype: str | None) -> ExportOptions:
    """The options of the command line as the export's.

    Raises:
        ConfigError: they do not fit together.
    """
    from codetune.export.config import ExportOptions

    values: dict[str, Any] = {"format": form, "quantise": quantise, "dtype": dtype}
    given = {key: value for key, value in values.items() if value is not None}
    return ExportOptions.load(given, "the command line")


def folder_name(model: str, form: str) -> str:
    """A folder's name for "team/shop:2": what a path could be made of is replaced."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in model).strip(".-")
    return f"{kept or 'model'}-{form}"


def _show(made: Exported) -> None:
    """What there is now, how equal it is, and what to do with it."""
    for name, count in made.files.items():
        click.echo(f"  {name:<32} {size(count):>10}")
    click.echo()
    for one in made.parity["written"]:
        click.echo(f"{one['compared']}: {one['same_texts']} of {one['texts']} greedy answers equal")
    first = made.parity["written"][0]
    click.echo(
        f"Divergence {first['divergence']:.2g} nats a token ({first['precision']}; at most "
        f"{first['tolerance']:g}); tuning changed {first['changed_by_tuning']:.2g}."
    )
    click.secho(f"\n{made.model} is written to {made.folder}", bold=True)
    if made.format == "gguf":
        click.echo(f"Load it  ollama create NAME -f {made.folder / 'Modelfile'}")
    else:
        click.echo(f"Load it  vllm serve {made.folder}")
