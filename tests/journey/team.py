"""A small team's repository, made new in each run: every module in the team's own style."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

# Options that make the journey quick: the point is the way, not the score.
QUICK = [
    "--set", "training.epochs=1",
    "--set", "evaluation.fim_prompts=24",
    "--set", "evaluation.general_bytes=8192",
    "--set", "evaluation.text_bytes=32768",
]  # fmt: skip

# Less of everything, and a checkpoint after each step: there is something to go on from.
INTERRUPTED = [
    "--set", "training.max_steps=16",
    "--set", "training.batch_tokens=2048",
    "--set", "training.checkpoint_seconds=0",
    "--set", "dataset.replay_share=0",
    "--set", "evaluation.fim_prompts=4",
    "--set", "evaluation.general_bytes=2048",
    "--set", "evaluation.text_bytes=4096",
]  # fmt: skip

ENTITIES = (
    *("invoice", "shipment", "ledger", "parcel", "tariff"),
    *("voucher", "claim", "carrier", "depot", "manifest"),
)
FIELDS = (
    *("amount", "currency", "weight", "status", "owner"),
    *("region", "priority", "reference", "due_day", "attempts"),
)


def write_module(entity: str, seed: int) -> str:
    """A module in the team's own style: the same habits everywhere, other names and rules."""
    chance = random.Random(f"{entity}-{seed}")
    fields = chance.sample(FIELDS, 6)
    title = entity.title()
    lines = [
        f'"""Rules for every {entity} that enters the warehouse ({chance.randint(10, 99)})."""',
        "",
        "from warehouse.core import Outcome, Rejected, record_event, require",
        "",
        "",
        f"class {title}Policy{seed}:",
        f'    """Decides what happens to a {entity}; never raises, always records."""',
        "",
        f"    def __init__(self, {', '.join(fields[:3])}):",
        *[f"        self.{field} = require({field}, name={field!r})" for field in fields[:3]],
        "",
    ]
    for field in fields:
        limit = chance.randint(2, 900)
        verb = chance.choice(["check", "settle", "release", "escalate", "merge"])
        lines += [
            f"    def {verb}_{field}(self, {entity}, *, limit={limit}):",
            f"        record_event({entity}.reference, step='{verb}_{field}')",
            f"        if {entity}.{field} is None:",
            f"            return Rejected(reason='{field} is missing', source={entity})",
            f"        if {entity}.{field} > limit:",
            f"            return Outcome.hold({entity}, because='{field} above {limit}')",
            f"        return Outcome.accept({entity}, via='{title}Policy{seed}.{verb}_{field}')",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def git(folder: Path, *arguments: str, day: int = 1) -> None:
    stamp = f"2026-0{1 + day // 28}-{1 + day % 28:02d}T12:00:00Z"
    who = {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp, "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, **who},
    )


def make_repository(folder: Path, commits: int = 20) -> Path:
    """A git repository in which each commit adds two modules and changes an older one."""
    (folder / "warehouse").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for day in range(commits):
        for entity in random.Random(day).sample(ENTITIES, 2):
            (folder / "warehouse" / f"{entity}_{day}.py").write_text(write_module(entity, day))
        if day > 2:
            older = sorted((folder / "warehouse").glob("*.py"))[day % 4]
            extra = write_module(random.Random(day).choice(ENTITIES), 100 + day).split("\n\n\n")[1]
            older.write_text(older.read_text() + "\n\n" + extra + "\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"Day {day}", day=day)
    return folder


Codetune = Callable[..., subprocess.CompletedProcess[str]]
