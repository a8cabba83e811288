"""The model card: README.md with what the model is made of, for the hub and for people."""

from __future__ import annotations

import json
from pathlib import Path

from codetune import __version__
from codetune.export.parity import Parity
from codetune.export.source import Source

_MOST = 20  # licences and commits that are named
_LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")


def write_card(source: Source, title: str, parity: Parity, folder: Path) -> None:
    """Write README.md, beside the base's own licence texts where there are any."""
    for name in _LICENCES:
        text = source.base.path / name
        if text.is_file():
            (folder / name).write_bytes(text.read_bytes())
    (folder / "README.md").write_text(card_text(source, title, parity), encoding="utf-8")


def card_text(source: Source, title: str, parity: Parity) -> str:
    """The card's Markdown; what came from a repository or a user is quoted as data."""
    card = source.card
    base = _base_name(source)
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if not Path(base).is_absolute() and "/" in base:
        head.append(f"base_model: {json.dumps(base)}")
    head += ["tags:", "- code", "- codetune", "---", ""]
    rows = [
        f"# {_plain(title)}",
        "",
        f"`{_plain(card.id)}`, made with codetune {__version__}: {_plain(card.method)} on "
        f"`{_plain(base)}` (weights {source.base.digest[:16]}).",
        "",
        "## Made of",
        "",
        f"- Parents: {', '.join(f'`{_plain(_named(parent))}`' for parent in card.parents) or '–'}",
        *_listed("Commits", [f"`{_plain(r)}` @ {_plain(c)}" for r, c in card.commits.items()]),
        *_listed(
            "Licences of the training data (files)",
            [f"{_plain(name)} ({count})" for name, count in card.licences.items()],
        ),
        f"- Data {card.data_digest or '–'}, options {card.config_digest or '–'}",
        "",
        "The licence of the base and those of the training data apply.",
        "",
        "## Equal to its source",
        "",
        f"Against the model as it is served, in float32, over {parity.tokens} tokens of "
        f"{parity.texts} greedy answers: {parity.divergence:.2g} nats a token away "
        f"(tuning has moved its base by {parity.changed_by_tuning:.2g}), "
        f"{parity.same_texts} of {parity.texts} answers equal to the last token. "
        "`parity.json` has it all.",
        "",
    ]
    return "\n".join([*head, *rows])


def _listed(title: str, rows: list[str]) -> list[str]:
    if not rows:
        return []
    more = [f"and {len(rows) - _MOST} more"] if len(rows) > _MOST else []
    return [f"- {title}: {', '.join([*rows[:_MOST], *more])}"]


def _base_name(source: Source) -> str:
    """A base's name; of a folder only its own name, since its path stays on this machine."""
    return _named(source.base.name)


def _named(name: str) -> str:
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or path.is_dir() else name


def _plain(text: str) -> str:
    """One line without Markdown's and HTML's marks."""
    kept = "".join(c for c in str(text) if c.isprintable() and c not in "`<>[]|*#!")
    return kept[:200]
