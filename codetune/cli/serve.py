"""`codetune serve`: the models of this machine for editors and SDKs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codetune.serving.catalog import Catalog
    from codetune.serving.complete import Completer


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; only this machine's own are possible: 127.0.0.1, ::1.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0: any free one.",
)
@click.option(
    "--base",
    default="nano",
    show_default=True,
    help="Base served beside your models: nano, a folder, or a Hugging Face id.",
)
@click.option(
    "--model",
    "-m",
    "preload",
    multiple=True,
    help="Load this model at the start, not when it is first asked for. Repeatable.",
)
@click.option(
    "--max-running",
    type=click.IntRange(1, 1024),
    help="Answers written at the same time; others wait.  [16]",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="Precision of the weights; auto: what is fast on this machine.  [auto]",
)
def serve(
    host: str,
    port: int,
    base: str,
    preload: tuple[str, ...],
    max_running: int | None,
    dtype: str | None,
) -> None:
    """Serve the base and your tuned models with OpenAI's API.

    Editors and SDKs reach it at http://127.0.0.1:8000/v1 with any key. A request names a model
    of `codetune models`; all LoRA models share one copy of their base. Ctrl-C stops it.

    \b
    Examples:
      codetune serve
      codetune serve --port 9000 -m myrepo
      codetune serve --base ./Qwen2.5-Coder-0.5B
    """
    from codetune.api.app import create_app
    from codetune.api.guard import LOOPBACK
    from codetune.api.server import Server, listen
    from codetune.interrupt import exit_status
    from codetune.serving.config import ServingOptions
    from codetune.serving.local import local_completer

    values = {"base": base, "max_running": max_running, "dtype": dtype}
    options = ServingOptions.load({k: v for k, v in values.items() if v is not None}, "serve")
    listener = listen(host, port)
    with listener:
        completer = local_completer(options)
        try:
            for name in preload or (None,):
                completer.load(name)
            port = listener.getsockname()[1]
            shown = f"[{host}]" if ":" in host else host
            app = create_app(completer, hosts={*LOOPBACK, shown})
            server = Server(
                app, completer.engine, lambda: _say_hello(f"http://{shown}:{port}", completer)
            )
            server.run([listener])
        except KeyboardInterrupt as error:
            click.echo("Stopped.")
            raise click.exceptions.Exit(exit_status(error)) from error
        finally:
            completer.engine.close()


def _say_hello(url: str, completer: Completer) -> None:
    """The startup card."""
    names = _names(completer.catalog)
    model = completer.catalog.resolve(None).id
    click.echo(f"codetune serves on {url}  (Ctrl-C stops it)\n")
    for number, line in enumerate(names):
        click.echo(f"  {'models' if number == 0 else '':<8}{line}")
    click.echo(
        "\n  try     "
        f"curl {url}/v1/completions -H 'Content-Type: application/json' \\\n"
        f'            -d \'{{"model": "{model}", "prompt": "def add(a, b):\\n    return ", '
        '"suffix": "\\n", "max_tokens": 32}\''
        f"\n  editor  any OpenAI-compatible plug-in: base URL {url}/v1, model {model}, any key\n"
        f'  python  OpenAI(base_url="{url}/v1", api_key="-")\n'
    )


def _names(catalog: Catalog) -> list[str]:
    listed = catalog.listed()
    lines = [
        f"{entry.id}  → {entry.root}" if entry.id != entry.root else f"{entry.id}  ({entry.kind})"
        for entry in listed
    ]
    return lines if len(lines) <= 12 else [*lines[:12], f"… and {len(lines) - 12} more"]
