"""The report on hostile repository text: it must not run, fetch, hide or reorder anything."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact, run_stage
from codetune.evaluation.charts import loss_svg
from codetune.evaluation.report import write_report
from codetune.project import load_project
from codetune.records import ModelCard

HOSTILE = (
    "<script>fetch('https://evil.example/x')</script><img src=https://evil.example/i.png onerror=x>"
    "![i](https://evil.example/m.png) \u202e\u2066gnp.exe\u2069 zero\u200bwidth \x1b[2J\x00 ```\n# no\n"
    "</pre></style>{{ 7*7 }}{% raw %} `x` | a | --> <!-- \"quoted\" 'single' &amp; \U000e0041"
)


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value * 0.9, "high": value * 1.1}


def scorecard(fim: bool) -> dict[str, Any]:
    counts = {"files": 9, "bytes": 1000, "prompts": 20 if fim else 0, "prompt_files": 8}
    counts |= {"general_files": 5, "general_bytes": 500}

    def side(bits: float, share: float) -> dict[str, Any]:
        return {
            "bits_per_byte": figure(bits),
            "fim_exact_match": figure(share) if fim else None,
            "fim_edit_similarity": figure(share * 2) if fim else None,
            "general_bits_per_byte": figure(1.5),
            "n": counts,
        }

    change = {"bits_per_byte": {"value": -0.5, "low": -0.6, "high": -0.4}}
    change |= {"general_bits_per_byte": {"value": 0.0, "low": -0.1, "high": 0.1}}
    if fim:
        gain = {"value": 0.1, "low": 0.05, "high": 0.15}
        change |= {"fim_exact_match": gain, "fim_edit_similarity": gain}
    return {
        "base": side(2.0, 0.1),
        "tuned": side(1.5, 0.2),
        "change": change,
        "promoted": True,
        "reasons": ["Better on held-out code.", HOSTILE],
    }


def made(folder: Path, text: str = HOSTILE, fim: bool = True) -> dict[str, Any]:
    """Every stage's artifact as the report reads it, with `text` wherever a repository has a say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    answer = {"text": text, "exact": False, "similarity": 0.5}
    completion = {
        **{"id": "g", "repo": text, "path": text, "language": text, "split": "time", "kind": text},
        **{"prefix": text, "suffix": text, "truth": text, "base": answer, "tuned": answer},
    }

    def collect(place: Path) -> dict[str, Any]:
        repository = {"name": text, "location": text, "kind": "git", "commit": "c" * 40}
        (place / "repository.json").write_text(json.dumps({**repository, "cutoff": "a" * 40}))
        return {}

    def clean(place: Path) -> dict[str, Any]:
        rows = [{"path": text, "reason": "binary"}] * 6
        pq.write_table(pa.Table.from_pylist(rows), place / "dropped.parquet")
        languages = {text: {"files": 3, "bytes": 1234}}
        return {"files": 9, "kept": 3, "dropped": {"binary": 6}, "languages": languages}

    def build(place: Path) -> dict[str, Any]:
        return {
            "examples": {"ntp": 5, "fim": 7},
            "tokens": 12345,
            "leaked": 0,
            "fim_kinds": {text: 3},
        }

    def train(place: Path) -> dict[str, Any]:
        lines: list[dict[str, Any]] = [
            {"kind": "train", "step": n, "tokens": 1000 * n, "loss": 3 - n / 10}
            for n in range(1, 9)
        ]
        lines += [{"kind": "validation", "step": n, "loss": 2.9} for n in (0, 4, 8)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (place / "preflight.json").write_text(json.dumps({"seconds": 75, "memory_needed": 10**9}))
        return {"method": text, "loss": {"first": 3.0, "last": 2.2}, "tokens": 8000}

    def evaluate(place: Path) -> dict[str, Any]:
        lines = [json.dumps(completion)] * 12 if fim else []
        (place / "completions.jsonl").write_text("\n".join(lines))
        pair = {"base": figure(2.0), "tuned": figure(1.5), "change": figure(-0.5)}
        row = {"value": text, "files": 3, "bytes": 9, "prompts": 2, "bits_per_byte": pair}
        parts: dict[str, Any] = {"split": [row], "language": [row], "kind": [row] if fim else []}
        card = scorecard(fim)
        return {"scorecard": card, "breakdown": parts, "window": 512, "seconds": {"base": 1.0}}

    def stage(name: str, make: Any, config: dict[str, Any]) -> Artifact:
        return run_stage(name, folder / name, config, {}, make)

    config = {"seed": 0, "forgetting_limit": 0.03, "precision": "torch.float32", "version": 1}
    return {
        "collected": stage("sources", collect, {"cutoff": 0.1}),
        "cleaned": stage("corpus", clean, {"licences": [text], "version": 1}),
        "dataset": stage("dataset", build, {"seed": 0, "recipe": {"x": 1}, "version": 1}),
        "run": stage("run", train, {"method": "lora"}),
        "evaluation": stage("evaluation", evaluate, config),
        "card": card(text),
    }


def card(text: str) -> ModelCard:
    return ModelCard(
        id="mine:1", name="mine", version=1, kind="adapter", base=text, base_digest="d" * 64,
        method="lora", created="2026-01-02T03:04:05+00:00", promoted=True, config_digest="c",
        data_digest="d", commits={text: "a" * 40}, licences={text: 3},
    )  # fmt: skip


def searched(folder: Path, best: int = 0) -> Artifact:
    """A finished search, with a trial that was stopped and one that failed for a hostile reason."""
    params = {"training.learning_rate": 0.0015, "training.rank": 64}

    def trial(number: int, state: str, **facts: Any) -> dict[str, Any]:
        one = {"trial": number, "state": state, "params": params, "validation_loss": None}
        one |= {"best_in_run": None, "steps": 0, "of_steps": 0, "seconds": 75.0, "reason": ""}
        return one | facts

    def search(place: Path) -> dict[str, Any]:
        trials = [
            trial(0, "finished", validation_loss=2.9, best_in_run=2.8, steps=8, of_steps=8),
            trial(1, "finished", validation_loss=2.9, best_in_run=2.9, steps=8, of_steps=8),
            trial(2, "pruned", best_in_run=3.1, steps=2, of_steps=8),
            trial(3, "failed", reason=HOSTILE),
        ]
        (place / "trials.json").write_text(json.dumps({"parameters": [*params], "trials": trials}))
        (place / "search.png").write_bytes(b"\x89PNG")
        found = {"trial": best, "params": params, "validation_loss": 2.9}
        counts = {"trials": 4, "pruned": 1, "failed": 1, "as_given": 2.9, "seconds": 9}
        return {**counts, "best": found}

    config = {"dataset": {"seed": 1}, "training": {"max_steps": 8}, "search": {"trials": 4}}
    return run_stage("search", folder / "search", config, {}, search)


class Page(HTMLParser):
    """Collects the elements, their attributes and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_report(tmp_path / "r", **made(tmp_path)).read_text())


def test_nothing_of_a_repository_becomes_markup(page: Page) -> None:
    assert not {"script", "img", "iframe", "link", "object", "form", "base", "video"} & {*page.tags}
    assert "<script>fetch(" in page.text  # it is shown, as text
    assert "{{ 7*7 }}" in page.text  # and no template either
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_it_says_what_was_compared_with_and_what_is_served_alone(tmp_path: Path) -> None:
    stages = made(tmp_path)
    summary = dict(stages["evaluation"].summary)
    summary["scorecard"] = {**summary["scorecard"], "reference": "team:1"}
    evaluation = replace(stages["evaluation"], summary=summary)
    alone = replace(stages["card"], method="dora", shares_batches=False)
    html = write_report(tmp_path / "r", **stages | {"evaluation": evaluation, "card": alone})
    for text in (html.read_text(), (html.parent / "report.md").read_text()):
        assert "better than team:1, which it stands on" in text
        assert "share no batch with other adapters" in text
    assert "<th>team:1</th><th>tuned</th>" in html.read_text()


def test_it_says_what_each_stream_lost_and_what_instructions_there_were(tmp_path: Path) -> None:
    stages = made(tmp_path)
    streams = {"sft": 3.0, "chats": 1.0, "ntp": 2.0}
    losses = {name: {"first": loss, "best": loss / 2} for name, loss in streams.items()}
    losses["ntp"]["saved"] = 1.25  # a part of the change was taken back
    run = replace(stages["run"], summary={"validation_by_stream": losses})
    summary = {
        "examples": {"ntp": 5, "sft": 1886},
        "instructions": {"test": 105, "commit": 1781, "explain": 0},
        "tokens_by_stream": {"sft": 30, "ntp": 20},
    }
    dataset = replace(stages["dataset"], summary=summary)
    html = write_report(tmp_path / "r", **stages | {"run": run, "dataset": dataset})
    text = (html.parent / "report.md").read_text()
    said = [
        "of whole texts: 2.000 → 1.250",
        "of instructions: 3.000 → 1.500",
        "of chats: 1.000 → 0.500",
        "Instructions: 1,886 (commit 1,781, test 105)",
        "of these whole texts: 20",
    ]
    plain = re.sub(r"\s*\|\s*", ": ", text).replace("\\", "")
    assert [one for one in said if one not in plain] == []
    assert plain.index(said[0]) < plain.index(said[1]) < plain.index(said[2])


def test_nothing_is_asked_for_from_elsewhere(page: Page) -> None:
    asked = [
        a for a in page.attributes if a[1] in ("src", "href", "action", "srcset", "xlink:href")
    ]
    assert asked == []
    policy = next(value for _, name, value in page.attributes if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy  # so that default-src forbids it


def test_the_style_sheet_asks_for_nothing(tmp_path: Path) -> None:
    html = write_report(tmp_path / "r", **made(tmp_path)).read_text()
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_a_narrow_screen_scrolls_charts_and_narrows_columns(tmp_path: Path) -> None:
    html = write_report(tmp_path / "r", **made(tmp_path)).read_text()
    charts = html.count("<svg ")
    assert charts == html.count('<div class="scroll"><svg ') == 2
    assert re.search(r"svg \{[^}]*min-width: 640px", html)
    columns = re.search(r"\.two \{[^}]*\}", html)
    assert columns
    assert "minmax(min(20rem, 100%), 1fr)" in columns[0]


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_hidden_characters_are_shown(tmp_path: Path, name: str) -> None:
    write_report(tmp_path / "r", **made(tmp_path))
    text = (tmp_path / "r" / name).read_text()
    for hidden in "\u202e\u2066\u2069\u200b\x1b\x00\U000e0041":
        assert hidden not in text
        assert f"⟨U+{ord(hidden):04X}⟩" in text


def prose_of(markdown: str) -> str:
    """What stands outside its code blocks."""
    outside, fence = [], ""
    for line in markdown.split("\n"):
        mark = re.match(r"`{3,}", line)
        if not fence and mark:
            fence = mark[0]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(line)
    assert not fence
    return "\n".join(outside)


@pytest.mark.parametrize("fim", [True, False])
def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_header(
    tmp_path: Path, fim: bool
) -> None:
    stages = {**made(tmp_path, fim=fim), "search": searched(tmp_path)}
    write_report(tmp_path / "r", **stages)
    prose = prose_of((tmp_path / "r" / "report.md").read_text())
    tables = re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE)
    assert len(tables) == (11 if fim else 10)
    for table in tables:
        head, rule, *rows = table.splitlines()
        assert re.fullmatch(r"\|(---\|)+", rule)
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *rows)]
        assert len({*cells}) == 1, table


@pytest.mark.parametrize(("best", "rank"), [(0, None), (1, 64)])
def test_the_best_options_of_a_search_again_are_all_options(
    tmp_path: Path, best: int, rank: int | None
) -> None:
    stages = {**made(tmp_path, "plain"), "search": searched(tmp_path, best)}
    html = write_report(tmp_path / "r", **stages)
    markdown = (tmp_path / "r" / "report.md").read_text()
    command = re.search(r"without searching.*?```bash\n(.*?)\n```", markdown, re.DOTALL)
    options = re.search(r"```yaml\n(.*)\n```", markdown, re.DOTALL)
    assert command
    assert options
    assert command[1] in Page(html.read_text()).text
    *words, file = shlex.split(command[1])[:5]
    assert words == ["codetune", "tune", "plain", "--config"]
    (tmp_path / file).write_text(options[1])
    settings = shlex.split(command[1])[6::2]
    found = load_project(tmp_path / file, {}, settings)
    assert (found.name, found.search.trials) == ("mine", 0)
    assert (found.dataset.seed, found.training.max_steps, found.training.rank) == (1, 8, rank)


def test_its_commands_name_the_source_by_its_whole_path(tmp_path: Path) -> None:
    stages = {**made(tmp_path, "shop"), "search": searched(tmp_path)}
    html = write_report(tmp_path / "r", **stages, place="/home/anna/shop")
    for text in (html.read_text(), (html.parent / "report.md").read_text()):
        assert re.findall(r"codetune tune (\S+)", text) == ["/home/anna/shop"] * 2
    html = write_report(tmp_path / "r", **stages)  # one that was read from elsewhere
    assert "codetune tune shop --config" in html.read_text()


def test_markdown_stays_in_its_place(tmp_path: Path) -> None:
    write_report(tmp_path / "r", **made(tmp_path))
    prose = prose_of((tmp_path / "r" / "report.md").read_text())
    assert "<script" not in prose
    assert "<img" not in prose
    assert re.findall(r"(?<!\\)!\[[^\]]*\]\([^)]*\)", prose) == ["![Scorecard](scorecard.png)"]
    assert "\n# no" not in prose


def test_the_pictures_lie_beside_the_report(tmp_path: Path) -> None:
    write_report(tmp_path / "r", **made(tmp_path))
    assert (tmp_path / "r" / "scorecard.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "report.html",
        "report.md",
        "scorecard.png",
    ]


def test_a_manager_finds_the_verdict(tmp_path: Path) -> None:
    text = Page(write_report(tmp_path / "r", **made(tmp_path, "plain")).read_text()).text
    assert "mine:1 predicts code it has never seen from this repository 25 % better" in text
    assert "fills 4 of 20 gaps in it with exactly the code that was written there" in text
    assert "Promoted" in text
    assert len(re.findall("what the author wrote", text)) == 10


def test_a_base_without_fim_has_a_report_too(tmp_path: Path) -> None:
    text = Page(write_report(tmp_path / "r", **made(tmp_path, "plain", fim=False)).read_text()).text
    assert "Held-out code" in text
    assert "real completions" not in text


def test_a_candidate_says_so(tmp_path: Path) -> None:
    parts = made(tmp_path, "plain")
    parts["card"] = replace(parts["card"], promoted=False)
    text = Page(write_report(tmp_path / "r", **parts).read_text()).text
    assert "Why it is only a candidate" in text
    assert "Kept as a candidate" in text


def test_a_loss_curve_needs_steps() -> None:
    assert loss_svg([]) is None
    assert loss_svg([{"kind": "train", "step": 1, "tokens": 5, "loss": 2.0}]) is None
    flat = [{"kind": "train", "step": n, "tokens": 5 * n, "loss": 2.0} for n in (1, 2, 3)]
    assert "<polyline" in str(loss_svg(flat))
