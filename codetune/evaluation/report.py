"""report.html and report.md: the verdict, its proof, and everything to repeat it.

The HTML is one file that asks for nothing: no script, no font, no image from elsewhere, and a
content security policy that forbids them all. Whatever came from a repository or a user is
escaped at the one place where values enter the template.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from codetune import __version__
from codetune.artifacts import Artifact
from codetune.errors import EvaluationError
from codetune.evaluation import facts, searched, visible
from codetune.evaluation.charts import loss_svg, scorecard_svg
from codetune.evaluation.facts import Stages
from codetune.evaluation.gate import FEWEST_FILES
from codetune.evaluation.picture import draw_scorecard
from codetune.records import ModelCard

HTML, MARKDOWN, PICTURE, CURVE = "report.html", "report.md", "scorecard.png", "loss.png"
# Keys in a stage's recorded config that are not options: they follow from its inputs.
_DERIVED = {
    "corpus": ("version",),
    "dataset": ("recipe", "version"),
    "training": ("version",),
    "evaluation": ("precision", "version"),
}


def write_report(
    folder: Path,
    *,
    collected: Artifact,
    cleaned: Artifact,
    dataset: Artifact,
    run: Artifact,
    evaluation: Artifact,
    card: ModelCard,
    search: Artifact | None = None,
    place: str | None = None,
) -> Path:
    """Write report.html, report.md and their pictures into `folder`; returns the HTML's path.

    `search` is the one that chose the options of the run; `place` the source's whole path where it
    lies on this machine, so that the commands to do it again work in every folder.

    Raises:
        EvaluationError: the folder cannot be written.
    """
    stages = Stages(collected, cleaned, dataset, run, evaluation, card, search)
    content = _content(stages, place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_scorecard(
            folder / PICTURE,
            stages.scorecard,
            stages.forgetting_limit,
            f"{card.id} against {_drawable(stages.reference)}",
        )
        if (run / CURVE).exists():
            shutil.copyfile(run / CURVE, folder / CURVE)
        if search is not None:
            shutil.copyfile(search / searched.PICTURE, folder / searched.PICTURE)
        _replace(folder / HTML, _render("report.html.j2", content, _html_value))
        content["curve"] = CURVE if (folder / CURVE).exists() else ""
        _replace(folder / MARKDOWN, _render("report.md.j2", content, _markdown_value))
    except OSError as error:
        raise EvaluationError(
            f"The report cannot be written to {folder}: {error.strerror or error}.",
            advice="Free some space and run again: the finished stages are kept.",
        ) from error
    return folder / HTML


def _content(stages: Stages, place: str | None) -> dict[str, Any]:
    """Everything the templates show."""
    metrics = stages.run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    kinds = stages.dataset.summary.get("fim_kinds") or {}
    return {
        "card": stages.card,
        "headline": facts.headline(stages),
        "verdict": facts.verdict(stages),
        "reasons": stages.scorecard["reasons"],
        "scores": facts.score_rows(stages),
        "lower": stages.scorecard.get("reference") or "base",
        "score_picture": scorecard_svg(stages.scorecard, stages.forgetting_limit),
        "loss_picture": loss_svg([json.loads(line) for line in lines]),
        "search": searched.search_content(stages.search),
        "parts": facts.parts(stages),
        "fewest_files": FEWEST_FILES,
        "examples": facts.examples(stages),
        "prompts": stages.scorecard["base"]["n"]["prompts"],
        "seed": stages.evaluation.config["seed"],
        "corpus": stages.cleaned.summary,
        "languages": facts.language_rows(stages),
        "dropped": facts.dropped_rows(stages),
        "data": facts.data_facts(stages),
        "kinds": sorted(
            ((kind.removeprefix("syntax:"), number) for kind, number in kinds.items()),
            key=lambda item: -item[1],
        ),
        "training": facts.training_facts(stages),
        "preflight": facts.preflight_facts(stages),
        "lineage": facts.lineage_facts(stages),
        "location": place or stages.repository["location"],
        "commit": stages.repository.get("commit"),
        "options": facts.options_yaml(stages, _DERIVED),
        "forgetting_limit": stages.forgetting_limit,
        "window": stages.evaluation.summary["window"],
        "seconds": stages.evaluation.summary["seconds"],
        "version": __version__,
    }


def _render(name: str, content: dict[str, Any], value: Callable[[Any], Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("codetune.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=value,
    )
    environment.filters["fenced"] = lambda text, language="": Markup(  # noqa: S704  a code block
        visible.fenced(text, language)
    )
    environment.filters["quoted"] = _shell_quoted
    return environment.get_template(name).render(content)


def _html_value(value: Any) -> Any:
    """The one place where values enter the HTML."""
    return value if isinstance(value, Markup) or value is None else visible.html(str(value))


def _markdown_value(value: Any) -> Any:
    """The one place where values enter the Markdown."""
    if isinstance(value, Markup) or value is None:
        return value
    return Markup(visible.markdown(str(value)))  # noqa: S704  escaped for Markdown and HTML


def _shell_quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _drawable(name: str) -> str:
    """`name` in letters that the picture's font has."""
    return "".join(c if " " <= c <= "~" else "?" for c in name)[:60]


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
