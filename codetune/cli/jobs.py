"""`codetune jobs list|show|logs|cancel|retry|forget|submit`: work in the background."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codetune.cli.options import (
    base_option,
    data_option,
    data_settings,
    json_option,
    method_option,
    project_options,
)
from codetune.cli.terminal import moment, print_json
from codetune.interrupt import exit_status

if TYPE_CHECKING:
    from codetune.jobs.follow import Event
    from codetune.jobs.service import Jobs
    from codetune.store.jobs import Job

# As jobs.work.KINDS and store.jobs.STATES have them; a test keeps them equal.
KINDS = ("pull", "ingest", "dataset", "evaluate", "tune", "export", "push", "ollama")
SUBMITTED = KINDS[:5]  # of a source; the others are of a model: `codetune export`, the API
STATES = ("queued", "running", "succeeded", "failed", "cancelled")
_WIDE, _NARROW = 120, 72  # columns of a terminal for all of a job, and for its age, too


@click.group()
def jobs() -> None:
    """Submit, list, follow, cancel and retry jobs.

    A job is work in the background that outlives the terminal, the server and the machine's
    power. Jobs are done by `codetune serve` and by `codetune worker`. A job whose process or worker
    died goes on at the interrupted step.

    \b
    Examples:
      codetune jobs submit tune .
      codetune jobs list
      codetune jobs logs JOB --follow
    """


@jobs.command()
@click.argument("kind", type=click.Choice(SUBMITTED))
@project_options
@base_option
@data_option
@method_option
@click.option("--name", help="Name of the tuned model.  [the repository's name]")
@click.option("--priority", type=int, default=0, help="Higher comes first.  [0]")
def submit(
    kind: str,
    source: str,
    config_file: Path | None,
    preset: str | None,
    base: str | None,
    data: str | None,
    method: str | None,
    name: str | None,
    priority: int,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Put a job of KIND on SOURCE into the queue.

    pull brings the base SOURCE here, ingest collects and cleans SOURCE, dataset builds training
    data of it, evaluate tunes and scores, tune does the whole job and registers the model. The
    options are `codetune tune`'s; what that has finished already is not done again.

    \b
    Examples:
      codetune jobs submit tune .
      codetune jobs submit tune . --method full --priority 5
      codetune jobs submit ingest https://github.com/OWNER/NAME --json
    """
    from codetune.errors import SourceError
    from codetune.jobs.service import public
    from codetune.project import load_project
    from codetune.registry.access import LOCAL
    from codetune.sources.identity import looks_remote

    here = Path(source).expanduser()
    if kind != "pull" and not looks_remote(source) and not here.exists():
        raise SourceError(
            f"{source} does not exist.", advice="Pass a path, an address or an archive."
        )
    overrides = {"preset": preset, "base": base, "name": name, "training.method": method}
    config = load_project(config_file, overrides | data_settings(data), settings)
    with _opened() as service:
        job = service.submit(LOCAL, kind, source, config, priority=priority, folder=Path.cwd())
        workers = service.workers()
    if as_json:
        print_json(public(job, LOCAL.name, places=True))
        return
    click.echo(f"{job.id} is queued.  Follow it: codetune jobs logs {job.id} --follow")
    if not workers:
        click.echo("No worker is running yet: start `codetune worker` or `codetune serve`.")


@jobs.command(name="list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--kind", type=click.Choice(KINDS), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="At most.  [50]")
@json_option
def list_jobs(state: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs.

    \b
    Examples:
      codetune jobs list
      codetune jobs list --state running --json
    """
    from codetune.jobs.service import public
    from codetune.registry.access import LOCAL

    with _opened() as service:
        page = service.list(LOCAL, state=state, kind=kind, limit=limit)
        owners = service.owners(page.jobs)
        workers = service.workers()
    rows = [public(job, owners.get(job.owner_id), places=True) for job in page.jobs]
    if as_json:
        doing = [
            {"id": w.id, "host": w.host, "pid": w.pid, "slots": w.slots, "seen": w.seen}
            for w in workers
        ]
        print_json({"jobs": rows, "workers": doing, "more": page.next is not None})
        return
    _show_table(rows)
    slots = sum(worker.slots for worker in workers)
    click.echo(f"\nWorkers: {len(workers)}, slots: {slots}." if workers else "\nNo worker runs.")


def _show_table(rows: Iterable[dict[str, Any]]) -> None:
    """As much of the jobs as the terminal has room for; `jobs show` has everything."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    titles = ["job", "kind", "state", "source"]
    if console.width >= _WIDE:
        titles[3:] = ["owner", "source", "progress"]
    if console.width >= _NARROW:
        titles.append("created")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=title not in ("source", "progress"), overflow="fold")
    for row in rows:
        cells = {
            "job": row["id"],
            "kind": row["kind"],
            "state": _state(row, console.width >= _WIDE),
            "owner": row["owner"],
            "source": row["source"] if console.width >= _WIDE else _last_part(row["source"]),
            "progress": _progress(row) if row["state"] == "running" else "",
            "created": moment(row["created"]),
        }
        table.add_row(*(Text(cells[title] or "") for title in titles))
    console.print(table)


def _state(row: Mapping[str, Any], wide: bool) -> str:
    """The state; where there is no column for progress, with the stage that it is at."""
    if row["cancelling"]:
        return "cancelling"
    now = row["progress"]
    stage = f" {now['number'] + 1}/{now['of']}" if now and not wide else ""
    return str(row["state"]) + (stage if row["state"] == "running" else "")


def _last_part(source: str) -> str:
    """shop of /home/ada/work/shop."""
    return source.rstrip("/").rpartition("/")[2]


def _progress(row: dict[str, Any]) -> str:
    """train 4/6: 120 of 400 steps, 3.2 steps/s, 88 s left (loss 1.2)"""
    now = row["progress"]
    if not now:
        return ""
    text = f"{now['stage']} {now['number'] + 1}/{now['of']}"
    if now.get("total"):
        text += f": {now['done']:,.0f} of {now['total']:,.0f} {now['unit']}".rstrip()
    if now.get("rate"):
        text += f", {now['rate']:,.3g} {now['unit']}/s"
    if now.get("left") is not None:
        text += f", {now['left']:,.0f} s left"
    return text + (f" ({now['note']})" if now.get("note") else "")


@jobs.command()
@click.argument("job")
@json_option
def show(job: str, as_json: bool) -> None:
    """Show JOB: what it does, how far it is, what became of it.

    \b
    Examples:
      codetune jobs show JOB
      codetune jobs show JOB --json | jq .progress
    """
    from codetune.jobs.service import public
    from codetune.registry.access import LOCAL

    with _opened() as service:
        found = service.get(LOCAL, job)
        row = public(found, service.owners([found]).get(found.owner_id), places=True)
    if as_json:
        print_json(row)
        return
    for key in ("id", "kind", "state", "owner", "source", "attempts", "created", "started"):
        if row[key] is not None:  # one that waits has not started
            click.echo(f"{key:<10} {row[key]}")
    if row["state"] == "running":
        click.echo(f"{'progress':<10} {_progress(row)}")
    if row["finished"]:
        click.echo(f"{'finished':<10} {row['finished']}")
    for key in ("model", "artifact", "report"):
        if row["result"] and key in row["result"]:
            click.echo(f"{key:<10} {row['result'][key]}")
    if row["error"]:
        click.echo(f"{'error':<10} {row['error']['message']}\n{'':<10} {row['error']['advice']}")


@jobs.command()
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object and nothing else; with --follow one a line.",
)
def logs(job: str, follow: bool, as_json: bool) -> None:
    """Print what JOB has printed; with --follow what it prints, too.

    With --follow and --json: one event a line (state, stage, progress, say, log), each with
    its id. Ctrl-C ends the following, not the job.

    \b
    Examples:
      codetune jobs logs JOB
      codetune jobs logs JOB --follow
    """
    from codetune.registry.access import LOCAL

    with _opened() as service:
        if not follow:
            text = service.log(LOCAL, job)
            if as_json:
                print_json({"id": job, "log": text})
            else:
                click.echo(text, nl=False)
            return
        try:
            for event in service.follow(LOCAL, job):
                _tell(event, as_json)
        except KeyboardInterrupt as error:
            click.echo("Not followed any more; the job itself is left as it is.", err=True)
            raise click.exceptions.Exit(exit_status(error)) from error


def _tell(event: Event, as_json: bool) -> None:
    """Print one event of a job that is followed."""
    if as_json:
        line = {"id": event.id, "kind": event.kind, "at": event.at, "data": event.data}
        click.echo(json.dumps(line, ensure_ascii=False, default=str))
    elif event.kind == "log":
        click.echo(event.data["text"], nl=False)
    elif event.kind == "state":
        error = event.data.get("error")
        reason = f": {error['message']}" if error else ""
        click.echo(f"-- {event.data['state']}{reason}", err=True)


@jobs.command()
@click.argument("job")
@json_option
def cancel(job: str, as_json: bool) -> None:
    """Cancel JOB: at once if it waits, within five seconds if it runs.

    Its finished stages and checkpoints are kept: `codetune jobs retry` goes on from there.

    \b
    Examples:
      codetune jobs cancel JOB
    """
    from codetune.registry.access import LOCAL

    with _opened() as service:
        _say(service.cancel(LOCAL, job), as_json, "is cancelled", "is being cancelled")


@jobs.command(short_help="Queue a failed or cancelled JOB again.")
@click.argument("job")
@json_option
def retry(job: str, as_json: bool) -> None:
    """Queue a failed or cancelled JOB again; it goes on where it stopped.

    \b
    Examples:
      codetune jobs retry JOB
    """
    from codetune.registry.access import LOCAL

    with _opened() as service:
        _say(service.retry(LOCAL, job), as_json, "is queued again", "")


@jobs.command(short_help="Delete ended jobs with their events and logs.")
@click.option("--days", type=click.FloatRange(min=0), required=True, help="Ended longer ago.")
@json_option
def forget(days: float, as_json: bool) -> None:
    """Delete ended jobs with their events and logs; models and finished stages stay.

    Workers do this by themselves after `keep_days` (jobs.yaml). What waits or runs is never
    deleted, nor the job that made a registered model.

    \b
    Examples:
      codetune jobs forget --days 30
    """
    from codetune.artifacts import home
    from codetune.jobs.tidying import forget_ended
    from codetune.store.database import Database

    count = 0
    with Database.open() as database:
        while some := forget_ended(database, home(), days):
            count += some
    if as_json:
        print_json({"forgotten": count})
    else:
        click.echo("1 job is forgotten." if count == 1 else f"{count} jobs are forgotten.")


def _say(job: Job, as_json: bool, done: str, under_way: str) -> None:
    from codetune.jobs.service import public

    if as_json:
        print_json(public(job, places=True))
    else:
        click.echo(f"{job.id} {under_way if job.state == 'running' else done}.")


@contextmanager
def _opened() -> Iterator[Jobs]:
    """The jobs of this machine's home, for the length of a block."""
    from codetune.artifacts import home
    from codetune.jobs.config import job_options
    from codetune.jobs.service import Jobs
    from codetune.store.database import Database

    with Database.open() as database:
        yield Jobs(database, job_options(home()), home())
