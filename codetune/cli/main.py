"""The `codetune` command: finds the subcommand, loads only that, names every error."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from codetune import __version__
from codetune.errors import CodetuneError, nearest
from codetune.interrupt import SAID, ends_soon, exit_status, terminate

# One line a command, shown by `codetune --help` without importing the command's module: the
# help must answer at once, and torch takes seconds. A test keeps these equal to the commands'.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "The whole job": {
        "tune": ("codetune.cli.tune:tune", "Tune a model on a repository and prove it is better."),
        "serve": ("codetune.cli.serve:serve", "Serve the base and your models (OpenAI API)."),
        "complete": ("codetune.cli.complete:complete", "Complete one place of a file."),
        "compare": (
            "codetune.cli.compare:compare",
            "Show what several models answer to one prompt, side by side.",
        ),
    },
    "One stage at a time": {
        "collect": ("codetune.cli.stages:collect", "Read a repository, folder or archive."),
        "clean": ("codetune.cli.stages:clean", "Keep or drop every file, with a reason."),
        "build": ("codetune.cli.stages:build", "Build training and held-out data."),
        "train": ("codetune.cli.stages:train", "Tune the base model on the training data."),
        "evaluate": ("codetune.cli.stages:evaluate", "Score base and tuned on held-out code."),
    },
    "Data": {
        "data": ("codetune.cli.data:data", "Check, show, mix, review and write training data."),
    },
    "Models": {
        "models": ("codetune.cli.models:models", "List the base and your tuned models."),
        "show": ("codetune.cli.models:show", "Show a model's card: data, method, scores."),
        "report": ("codetune.cli.models:report", "Print where a model's report is; open it."),
        "promote": ("codetune.cli.models:promote", "Choose the version a name stands for."),
        "remove": ("codetune.cli.models:remove", "Delete one version of a model."),
        "export": ("codetune.cli.export:export", "Write a model for other programs; proved equal."),
        "push": ("codetune.cli.export:push", "Upload a model to the Hugging Face hub."),
        "nano": ("codetune.cli.nano:nano", "The embedded base model and its recipe."),
    },
    "Work in the background": {
        "jobs": ("codetune.cli.jobs:jobs", "Submit, list, follow, cancel and retry jobs."),
        "worker": ("codetune.cli.worker:worker", "Do the jobs of the queue."),
    },
    "A server for a team": {
        "users": ("codetune.cli.users:users", "Make accounts, give them roles and tokens."),
        "teams": ("codetune.cli.teams:teams", "Make teams, and share models with them."),
        "backup": ("codetune.cli.backup:backup", "Write database and models to one file."),
        "restore": ("codetune.cli.backup:restore", "Put a backup's database and models here."),
    },
    "Setting up": {
        "init": ("codetune.cli.init:init", "Write a codetune.yaml with every option explained."),
        "export-config": (
            "codetune.cli.export_config:export_config",
            "Write the options for Axolotl, LLaMA-Factory or TRL.",
        ),
        "doctor": ("codetune.cli.doctor:doctor", "Say what this machine can do."),
    },
}


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for group in COMMANDS.values():
            if cmd_name in group:
                module, attribute = group[cmd_name][0].split(":")
                command: click.Command = getattr(importlib.import_module(module), attribute)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            hint = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"There is no command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in group.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="codetune")
def cli() -> None:
    """Turn a repository into a code model of your own, prove it is better, and serve it.

    \b
    codetune tune .                  tune the embedded base model on this repository
    codetune serve                   serve it to editors and SDKs on http://127.0.0.1:8000
    codetune complete app.py -n 42   ask it for one completion here
    """


def main() -> None:
    """Run the command line; exits with 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    # No call leaves this machine unless the user names something remote, and none for counting.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    try:
        with ends_soon():
            status = _run()
            if status > 128:
                # At once: to take torch apart can last seconds, and its threads even longer.
                _flush()
                os._exit(status)
    except KeyboardInterrupt as error:  # a second one, or one on the way out
        os._exit(exit_status(error))
    _flush()
    sys.exit(status)


def _run() -> int:
    try:
        status = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except CodetuneError as error:
        click.echo(f"codetune: {error}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo(SAID, err=True)  # click has ended the line with ^C
        return exit_status(error)
    except BrokenPipeError:
        # The reader (head, less) has gone: not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(status or 0) if isinstance(status, int | None) else 0


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    main()
