"""What jobs do that bring a registered model out: exported, uploaded, made a model of Ollama.

The export lies in the job's own folder, the current one, and is forgotten with the job. An attempt
that finds it finished goes on with what comes after.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import home
from codetune.errors import ExportError
from codetune.registry.cards import Registry

if TYPE_CHECKING:
    from codetune.export.export import Exported
    from codetune.export.ollama import Server
    from codetune.jobs.reports import Reporter
    from codetune.jobs.work import Work

FOLDER = "export"  # in the job's


def deliver(work: Work, reporter: Reporter) -> dict[str, Any]:
    """Do a delivery in this process; returns its result as JSON.

    Raises:
        CodetuneError: what the user can mend.
    """
    from codetune.delivery import kept_export
    from codetune.export.config import ExportOptions
    from codetune.jobs.work import DELIVERIES

    stages = DELIVERIES[work.kind]
    if work.config.get("is_file"):
        reporter.stage(stages[1], 1, len(stages))
        return _load_file(work, reporter)
    reporter.stage(stages[0], 0, len(stages))
    options = ExportOptions.load(work.config["export"], "the job's options")
    registry = Registry(home())
    made = kept_export(registry, work.source, options, Path.cwd() / FOLDER, reporter.progress)
    if work.kind == "export":
        result = {**made.as_json(), "artifact": str(made.folder)}
        del result["folder"]
    else:
        reporter.stage(stages[1], 1, len(stages))
        act = _push if work.kind == "push" else _load
        result = {**act(work, made, reporter), "parity": dict(made.parity)}
        shutil.rmtree(made.folder)
    reporter.stages_done(len(stages))
    return result


def _push(work: Work, made: Exported, reporter: Reporter) -> dict[str, Any]:
    from codetune.delivery import push_export
    from codetune.export.hub import Destination

    # The login of this machine is for whoever uses this machine without logging in.
    own = None if work.config["local"] else False
    if work.token is None and own is False:
        raise ExportError(
            "You have no token of the hub on this server.",
            advice='Set it: PUT /api/v1/settings/hub.token {"value": "hf_…"}',
        )
    destination = Destination(
        work.config["repository"],
        work.config["endpoint"],
        own if work.token is None else work.token,
        work.config["public"],
    )
    return push_export(made, destination, reporter.progress)


def _load(work: Work, made: Exported, reporter: Reporter) -> dict[str, Any]:
    from codetune.delivery import load_into_ollama

    server, name = _server(work), str(work.config["name"])
    return load_into_ollama(Registry(home()), made, server, name, reporter.progress)


def _load_file(work: Work, reporter: Reporter) -> dict[str, Any]:
    from codetune.delivery import load_file_into_ollama

    place, name = Path(work.source), str(work.config["name"])
    return load_file_into_ollama(place, _server(work), name, reporter.progress)


def _server(work: Work) -> Server:
    from codetune.export.ollama import Server

    variable = work.config["key_variable"]
    return Server(work.config["url"], os.environ.get(variable) if variable else None)
