"""Options of the queue and its workers."""

from __future__ import annotations

from pathlib import Path

from codetune.options import Options, option

FILE = "jobs.yaml"


class JobOptions(Options):
    """How jobs are shared out, tried again and given up."""

    max_queued: int = option(
        100, ge=1, description="Jobs that one user may have waiting; one more is refused."
    )
    max_running: int = option(
        4, ge=1, description="Jobs of one user that run at the same time; others wait."
    )
    roots: tuple[str, ...] = option(
        (),
        description="Folders of this machine below which users may name sources, bases and sets "
        "of training data. Who uses this machine without logging in may name any.",
    )
    sites: tuple[str, ...] = option(
        (),
        description="Hosts inside your network from which users may have repositories read, for "
        "example git.company.lan. All others must have public addresses.",
    )
    teachers: tuple[str, ...] = option(
        (),
        description="Addresses of models that users may have their instructions worded by "
        "(dataset.instructions.teacher.url).",
    )
    hubs: tuple[str, ...] = option(
        (),
        description="Addresses of hubs that users may upload models to, besides huggingface.co "
        "(or HF_ENDPOINT).",
    )
    max_crashes: int = option(
        3,
        ge=1,
        description="Crashes of a job in a row, without new ground between them (a finished "
        "stage, a later checkpoint), after which it has failed.",
    )
    max_losses: int = option(
        10,
        ge=1,
        description="Workers lost with a job in a row, without new ground between them (killed, "
        "out of power, out of reach), after which it has failed.",
    )
    backoff: float = option(
        5.0, ge=0, description="Seconds before a crashed job is tried again; doubled each time."
    )
    max_backoff: float = option(600.0, ge=0, description="The most seconds between two tries.")
    lease: float = option(
        30.0,
        ge=1,
        description="Seconds after which a job whose worker is not heard of belongs to nobody; "
        "a worker is heard of five times as often.",
    )
    fair_window: float = option(
        3600.0,
        ge=0,
        description="Seconds of the past that count as a user's recent work: among equal "
        "priorities, who has the least running, then the least recent work, comes first.",
    )
    grace: float = option(
        2.5,
        ge=0,
        le=4,
        description="Seconds between SIGTERM and SIGKILL for a job that is cancelled.",
    )
    nice: int = option(
        10, ge=0, le=19, description="How much jobs stand back behind the server's answers."
    )
    keep_days: float = option(
        90.0,
        ge=0,
        description="Days after which an ended job is forgotten, with its events and its log; "
        "0: never. The jobs that made the registered models stay.",
    )
    keep_completions: float = option(
        180.0,
        ge=0,
        description="Days after which a completion is forgotten, with what the editor said of it; "
        "0: never.",
    )
    keep_usage: float = option(
        730.0,
        ge=0,
        description="Days after which a day's usage of each user and model is forgotten; 0: never.",
    )
    keep_audit: float = option(
        1825.0, ge=0, description="Days after which the audit log's entries go; 0: never."
    )
    log_megabytes: float = option(
        10.0,
        gt=0,
        description="Size at which the log of a server's worker (jobs/worker.log) begins anew; "
        "three older ones are kept.",
    )
    environment: tuple[str, ...] = option(
        (),
        description="Environment variables that jobs may see besides those of the system, for "
        "example HF_TOKEN or the key_variable of a teacher. Every user's jobs can use them.",
    )


def job_options(home: Path) -> JobOptions:
    """What `home`/jobs.yaml says, which the server and every worker read; else the defaults.

    Raises:
        ConfigError: the file cannot be read, or holds an unknown or wrong option.
    """
    from codetune.project import read_yaml

    file = home / FILE
    return JobOptions.load(read_yaml(file), str(file)) if file.exists() else JobOptions()
