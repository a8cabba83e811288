"""`codetune export` and `codetune push`: a model as files, in Ollama, or on a hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

_dtype_option = click.option(
    "--dtype",
    type=click.Choice(PRECISIONS),
    help="Precision of merged safetensors; auto: as the base is stored.  [auto]",
)


@click.command()
@click.argument("model")
@click.option(
    "--format",
    "form",
    type=click.Choice(("safetensors", "gguf", "ollama")),
    default="safetensors",
    help="safetensors: a folder that transformers and vLLM load. gguf: a file for llama.cpp and "
    "Ollama, with a Modelfile; needs the extra [gguf]. ollama: the same, made a model of a "
    "running Ollama server.  [safetensors]",
)
@click.option(
    "--quantize",
    "quantise",
    type=click.Choice(QUANTISATIONS),
    help="Type of the matrices in a GGUF file.  [f16]",
)
@_dtype_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The new folder to write.  [NAME-VERSION-FORMAT, here; with ollama none is kept]",
)
@click.option("--url", help="The Ollama server.  [http://localhost:11434]")
@click.option("--name", help="The model's name in Ollama.  [as here]")
@json_option
def export(
    model: str,
    form: str,
    quantise: str | None,
    dtype: str | None,
    out: Path | None,
    url: str | None,
    name: str | None,
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
      codetune export shop --format ollama --name shop-coder
    """
    from codetune.artifacts import home
    from codetune.delivery import export_model
    from codetune.errors import ConfigError
    from codetune.registry.cards import Registry

    if form != "ollama" and (url or name):
        raise ConfigError("--url and --name are for --format ollama.")
    options = export_options("gguf" if form == "ollama" else form, quantise, dtype)
    registry = Registry(home())
    card = registry.get(model)
    if form == "ollama":
        _into_ollama(registry, card.id, options, out, url, name or ollama_name(card.name), as_json)
        return
    target = (out or Path(folder_name(card.id, form))).absolute()
    with progress_shown(quiet=as_json) as progress:
        made = export_model(registry, card.id, options, target, progress)
    if as_json:
        print_json(made.as_json())
    else:
        _show(made)


@click.command()
@click.argument("model")
@click.argument("repository")
@_dtype_option
@click.option("--public", is_flag=True, help="Let everybody read it.  [private]")
@click.option("--endpoint", help="A hub of your own.  [HF_ENDPOINT, else https://huggingface.co]")
@click.option("--dry-run", is_flag=True, help="Export and list what would be sent; send nothing.")
@json_option
def push(
    model: str,
    repository: str,
    dtype: str | None,
    public: bool,
    endpoint: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upload MODEL to REPOSITORY (owner/name) of the Hugging Face hub, merged, as safetensors.

    It is exported and compared first, as `codetune export` does. The repository is made private
    if it is not there. The token is that of HF_TOKEN or of `hf auth login`.

    \b
    Examples:
      codetune push shop my-team/shop-coder --dry-run
      codetune push shop:2 my-team/shop-coder
      codetune push shop my-team/shop-coder --endpoint https://hub.example.com
    """
    from codetune.artifacts import home
    from codetune.delivery import export_model, push_export
    from codetune.export.hub import Destination
    from codetune.registry.cards import Registry

    destination = Destination(repository, endpoint, public=public)
    options, registry = export_options("safetensors", None, dtype), Registry(home())
    with progress_shown(quiet=as_json) as progress, _workplace(None) as place:
        made = export_model(registry, model, options, place, progress)
        if dry_run:
            result = {"model": made.model, "repository": repository, "files": dict(made.files)}
        else:
            result = push_export(made, destination, progress)
    if as_json:
        print_json(result)
    elif dry_run:
        for name, count in made.files.items():
            click.echo(f"  {name:<32} {size(count):>10}")
        click.echo(f"\nThis would go to {repository}; nothing was sent.")
    else:
        click.secho(f"{made.model} is uploaded: {result['commit']}", bold=True)


def _into_ollama(
    registry: Any,
    model: str,
    options: ExportOptions,
    out: Path | None,
    url: str | None,
    name: str,
    as_json: bool,
) -> None:
    from codetune.delivery import export_model, load_into_ollama
    from codetune.export.ollama import DEFAULT_URL, Server, check_name

    check_name(name)
    server = Server(url or DEFAULT_URL)
    with progress_shown(quiet=as_json) as progress, _workplace(out) as place:
        made = export_model(registry, model, options, place, progress)
        result = load_into_ollama(registry, made, server, name, progress)
    if as_json:
        print_json({**result, "parity": dict(made.parity)})
        return
    click.secho(f"{made.model} is '{name}' at {server.url}", bold=True)
    click.echo(f"Ask it   ollama run {name}")


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    """`out`, or a folder below the home that is gone afterwards."""
    if out is not None:
        yield out.absolute()
        return
    import tempfile

    from codetune.artifacts import home

    (home() / "cache").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home() / "cache", prefix="export-") as place:
        yield Path(place) / "model"


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


def ollama_name(model: str) -> str:
    """A model's name in Ollama's letters; "team/shop" is that there, too."""
    return model.lower()


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
