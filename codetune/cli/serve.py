"""`codetune serve`: the models of this machine for editors and SDKs."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from codetune.serving.catalog import Catalog
    from codetune.serving.complete import Completer


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. One that others reach, such as 0.0.0.0, takes accounts.",
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
    help="Base served beside your models: nano, a folder, or a Hugging Face id.  [nano]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A codetune.yaml whose section serving is used; what stands here goes before it.",
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
@click.option(
    "--database", metavar="URL", help="postgresql://…  [$CODETUNE_DATABASE, or codetune.db]"
)
@click.option(
    "--register/--no-register",
    default=None,
    help="Let anybody make an account (POST /register/), where there is a login.  "
    "[accounts.registration, else no]",
)
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="Another name that this server is called by, behind a proxy. Repeatable.",
)
@click.option(
    "--adapter-root",
    "roots",
    multiple=True,
    metavar="FOLDER",
    help="Folder below which /v1/load_lora_adapter may read adapters. Repeatable.",
)
@click.option(
    "--keep-texts",
    is_flag=True,
    help="Keep the code around completions whose fate an editor reports, for later training.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="How each request is logged on standard error: for people, or one JSON object a line.  "
    "[text]",
)
@click.option(
    "--jobs",
    "slots",
    type=click.IntRange(0, 256),
    help="Jobs done at the same time beside serving; 0: all are left to `codetune worker`.  "
    "[one for each GPU, else 1]",
)
def serve(
    host: str,
    port: int,
    base: str | None,
    config: Path | None,
    preload: tuple[str, ...],
    max_running: int | None,
    dtype: str | None,
    database: str | None,
    register: bool | None,
    allowed: tuple[str, ...],
    slots: int | None,
    roots: tuple[str, ...],
    keep_texts: bool,
    log_format: str | None,
) -> None:
    """Serve the base and your tuned models with OpenAI's API.

    Editors and SDKs reach it at http://127.0.0.1:8000/v1 with any key. A request names a model
    of `codetune models`; all LoRA models share one copy of their base. Ctrl-C stops it.

    As soon as there is an administrator (`codetune users add NAME`), everybody logs in, and
    sees their own models and those that are shared with them.

    \b
    Examples:
      codetune serve
      codetune serve --port 9000 -m myrepo
      codetune serve --base ./Qwen2.5-Coder-0.5B
      codetune users add ada && codetune serve --host 0.0.0.0
    """
    from codetune.accounts.logins import Logins
    from codetune.api.app import create_app
    from codetune.api.connections import allow_open_files
    from codetune.api.guard import ANY_HOST, LOOPBACK
    from codetune.api.logs import logging_to
    from codetune.api.server import Server, is_loopback, listen
    from codetune.artifacts import home
    from codetune.interrupt import exit_status, unhurried
    from codetune.jobs.config import job_options
    from codetune.jobs.supervisor import WorkerProcess
    from codetune.project import load_project
    from codetune.registry.access import LOCAL
    from codetune.registry.ownership import Owners
    from codetune.serving.local import local_completer
    from codetune.serving.log import StoredLog
    from codetune.serving.usage import UsageBook
    from codetune.store.database import Database
    from codetune.store.in_use import serving_from
    from codetune.workspace.workspace import Workspace

    values: dict[str, Any] = {
        "base": base,
        "max_running": max_running,
        "dtype": dtype,
        "adapter_roots": list(roots) or None,
        "keep_texts": keep_texts or None,
        "log_format": log_format,
    }
    given = {f"serving.{name}": value for name, value in values.items()}
    project = load_project(config, given | {"accounts.registration": register})
    options = project.serving
    allow_open_files()
    with (
        logging_to(sys.stderr, options.log_format),
        serving_from(home()),
        Database.open(database) as opened,
    ):
        opened.bind()
        logins = Logins(opened, home(), project.accounts)
        login = logins.door.look()
        with listen(host, port, public=login) as listener:
            completer, usage = local_completer(options, Owners(opened)), UsageBook(opened)
            try:
                port = listener.getsockname()[1]
                shown = f"[{host}]" if ":" in host else host
                names = {*LOOPBACK, shown, *allowed}
                app = create_app(
                    completer,
                    hosts=names if is_loopback(host) else {ANY_HOST},
                    logins=logins,
                    log=StoredLog(opened, keep_texts=options.keep_texts),
                    workspace=Workspace.of(opened, home(), job_options(home())),
                    usage=usage,
                )

                def load() -> None:
                    for name in preload or (None,):
                        completer.load(completer.catalog.resolve_model(LOCAL, name))

                def begin() -> None:
                    if slots != 0:
                        worker = WorkerProcess(
                            opened, home(), slots, ending=lambda: server.should_exit
                        )
                        stack.enter_context(worker)
                    _say_hello(f"http://{shown}:{port}", completer, login)

                with ExitStack() as stack, usage, unhurried(signal.SIGTERM):
                    drain = options.drain_seconds
                    server = Server(app, completer.engine, begin, load=load, drain=drain)
                    server.run([listener])
            except KeyboardInterrupt as error:
                click.echo("Stopped.")
                raise click.exceptions.Exit(exit_status(error)) from error
            finally:
                completer.engine.close()


def _say_hello(url: str, completer: Completer, login: bool) -> None:
    """The startup card."""
    from codetune.registry.access import LOCAL

    model = completer.catalog.resolve_model(LOCAL, None).id
    key, header = ("ct_…", "-H 'Authorization: Bearer ct_…' ") if login else ("-", "")
    click.echo(f"codetune serves on {url}  (Ctrl-C stops it)\n")
    for number, line in enumerate(_names(completer.catalog)):
        click.echo(f"  {'models' if number == 0 else '':<8}{line}")
    if login:
        click.echo("\n  login   everybody needs a token: codetune users token NAME")
    click.echo(
        "\n  try     "
        f"curl {url}/v1/completions {header}-H 'Content-Type: application/json' \\\n"
        f'            -d \'{{"model": "{model}", "prompt": "def add(a, b):\\n    return ", '
        '"suffix": "\\n", "max_tokens": 32}\''
        f"\n  editor  any OpenAI-compatible plug-in: base URL {url}/v1, model {model}, "
        f"{'key ct_…' if login else 'any key'}\n"
        f'  python  OpenAI(base_url="{url}/v1", api_key="{key}")\n'
    )


def _names(catalog: Catalog) -> list[str]:
    from codetune.registry.access import LOCAL

    listed = catalog.visible_models(LOCAL)
    lines = [
        f"{entry.id}  → {entry.root}" if entry.id != entry.root else f"{entry.id}  ({entry.kind})"
        for entry in listed
    ]
    return lines if len(lines) <= 12 else [*lines[:12], f"… and {len(lines) - 12} more"]
