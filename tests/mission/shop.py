"""A small team's repository with all that instructions are made of: code that says what it does,
tests that call it, a README with sections, commits whose messages explain them."""

from __future__ import annotations

from pathlib import Path

from tests.journey.team import git

GOODS = ("basket", "invoice", "parcel", "ledger", "voucher", "refund", "courier", "tariff")
VERBS = ("collect", "settle", "release", "measure", "renew")


def module(name: str, day: int) -> str:
    lines = [
        f'"""Everything that the shop knows about one {name}, from its first day to its last."""',
        "",
        "from shop.core import Outcome, record",
        "",
    ]
    for place, verb in enumerate(VERBS):
        limit = 7 * place + day + len(name)
        lines += [
            "",
            f"def {verb}_{name}({name}, limit={limit}):",
            f'    """{verb.title()} the {name} of one customer and tell the desk what came of it.',
            "",
            f"    More than {limit} pieces are held back until somebody has looked at them.",
            '    """',
            f"    record({name}.reference, step='{verb}')",
            f"    if {name}.pieces > limit:",
            f"        return Outcome.hold({name}, because='{verb} above {limit}')",
            f"    total = sum(piece.price * {place + 2} for piece in {name}.lines)",
            f"    return Outcome.accept({name}, total=total, via='{verb}_{name}')",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def tests_of(name: str) -> str:
    lines = [f"from shop.{name} import {', '.join(f'{verb}_{name}' for verb in VERBS)}", ""]
    for verb in VERBS:
        lines += [
            "",
            f"def test_{verb}_{name}_holds_what_is_too_much(make_{name}):",
            f"    {name} = make_{name}(pieces=900)",
            f"    outcome = {verb}_{name}({name})",
            "    assert outcome.held",
            f"    assert '{verb}' in outcome.because",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def readme(names: list[str]) -> str:
    parts = ["# The shop\n\nOrders come in at the desk and leave by courier.\n"]
    for name in names:
        parts.append(
            f"## How a {name} is handled\n\nEvery {name} enters the shop at the desk, where a "
            f"clerk writes it into the book. When a {name} has been settled, the desk tells the "
            f"customer, and the {name} is kept for {len(name)} years. A {name} that nobody asks "
            f"for is renewed once:\n\n```python\nfrom shop.{name} import renew_{name}\n\n"
            f"outcome = renew_{name}(found)\nprint(outcome.total)\n```\n"
        )
    return "\n".join(parts)


def make_shop(folder: Path) -> Path:
    """A git repository in which every commit adds a module and its tests, or mends an older one."""
    for place in ("shop", "tests"):
        (folder / place).mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for day, name in enumerate(GOODS):
        (folder / "shop" / f"{name}.py").write_text(module(name, day))
        (folder / "tests" / f"test_{name}.py").write_text(tests_of(name))
        (folder / "README.md").write_text(readme(list(GOODS[: day + 1])))
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"Handle every {name} at the desk", day=2 * day)
        older = folder / "shop" / f"{GOODS[day // 2]}.py"
        limit = f"limit={7 + day // 2 + len(GOODS[day // 2])}"
        text = older.read_text()
        older.write_text(text.replace(limit, f"limit={40 + day}") + f"\n\nLAST_CHECKED = {day}\n")
        git(folder, "add", "-A")
        subject = f"Raise the limit for settling a {GOODS[day // 2]}"
        reason = "Customers with large orders waited for days until somebody looked at theirs."
        git(folder, "commit", "-q", "-m", f"{subject}\n\n{reason}", day=2 * day + 1)
    return folder
