"""What the report says, gathered from the stages' artifacts and put into words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetune.artifacts import Artifact
from codetune.errors import EvaluationError
from codetune.evaluation.charts import MEASURES
from codetune.evaluation.words import ALONE, STREAMS, bytes_, count, duration, percent
from codetune.records import ModelCard

EXAMPLES = 10
_PREFIX_LINES, _SUFFIX_LINES = 10, 5
_DROPPED_SHOWN = 4  # files named per reason
_REASONS = {
    "binary": "not text",
    "data": "data rather than code: tables, lock files, data formats",
    "vendored": "other people's code",
    "generated": "written by a program",
    "minified": "packed for machines",
    "long_lines": "lines too long for code",
    "too_large": "larger than the limit",
    "licence": "a licence that was not allowed",
    "secret": "holds a secret",
    "exact_duplicate": "the same as another file",
    "near_duplicate": "almost the same as another file",
    "symlink": "a link, never followed",
    "submodule": "another repository",
    "lfs_pointer": "a pointer to a file elsewhere",
    "ignored": "excluded by .gitignore or the options",
    "empty": "nothing in it",
}


@dataclass(frozen=True)
class Stages:
    """The finished stages that a report is about."""

    collected: Artifact
    cleaned: Artifact
    dataset: Artifact
    run: Artifact
    evaluation: Artifact
    card: ModelCard
    search: Artifact | None = None  # that chose the options of dataset and run

    @property
    def scorecard(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.evaluation.summary["scorecard"]
        return found

    @property
    def reference(self) -> str:
        """What the tuned model is compared with: its base, or the adapter it stands on."""
        return self.scorecard.get("reference") or short_name(self.card.base)

    @property
    def forgetting_limit(self) -> float:
        return float(self.evaluation.config["forgetting_limit"])

    @property
    def repository(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads((self.collected / "repository.json").read_text())
        return found


def headline(stages: Stages) -> str:
    """The verdict in one sentence that needs no statistics to be understood."""
    card, scorecard = stages.card, stages.scorecard
    base, tuned = (scorecard[side]["bits_per_byte"]["value"] for side in ("base", "tuned"))
    change = scorecard["change"]["bits_per_byte"]
    lower = scorecard.get("reference")
    against = f"{lower}, which it stands on" if lower else f"its base, {stages.reference}"
    name = f"{card.id} predicts code it has never seen from this repository"
    share = f"{100 * abs(tuned / base - 1):.0f} %"
    if change["high"] < 0:
        sentence = f"{name} {share} better than {against}"
    elif change["low"] > 0:
        sentence = f"{name} {share} worse than {against}"
    else:
        files = count(scorecard["base"]["n"]["files"])
        return f"{name} no better than {lower or 'its base'}, as far as {files} files can tell."
    exact = [scorecard[side]["fim_exact_match"] for side in ("base", "tuned")]
    if exact[0] is None:
        return f"{sentence}."
    prompts = scorecard["base"]["n"]["prompts"]
    hits = [round(side["value"] * prompts) for side in exact]
    return (
        f"{sentence}, and fills {hits[1]} of {prompts} gaps in it with exactly the code that "
        f"was written there; {lower or 'the base'} fills {hits[0]}."
    )


def verdict(stages: Stages) -> str:
    """What follows from the scorecard."""
    if stages.card.promoted:
        return "Promoted: this version now answers to the model's name."
    return "Kept as a candidate: it must be asked for by its version."


def score_rows(stages: Stages) -> list[dict[str, Any]]:
    """The scorecard as table rows in words."""
    scorecard = stages.scorecard
    counts = scorecard["base"]["n"]
    behind = {
        "bits_per_byte": f"{count(counts['files'])} files, {bytes_(counts['bytes'])}",
        "general_bits_per_byte": f"{count(counts['general_files'])} files, "
        f"{bytes_(counts['general_bytes'])}",
    }
    prompts = f"{count(counts['prompts'])} gaps in {count(counts['prompt_files'])} files"
    rows = []
    for measure in MEASURES:
        base, tuned = scorecard["base"][measure.key], scorecard["tuned"][measure.key]
        if base is None or tuned is None:
            continue
        change = scorecard["change"][measure.key]
        rows.append(
            {
                "measure": measure,
                "base": base,
                "tuned": tuned,
                "change": change,
                "said": measure.change(base["value"], tuned["value"], change["value"]),
                "quality": measure.quality(base["value"], change, stages.forgetting_limit),
                "behind": behind.get(measure.key, prompts),
            }
        )
    return rows


def parts(stages: Stages) -> list[dict[str, Any]]:
    """The breakdown by split, language and kind of gap, as tables."""
    titles = {
        "split": "By how it was held out",
        "language": "By language",
        "kind": "By kind of gap",
    }
    words = {"time": "written after the cut-off", "file": "files kept out of training"}
    found = []
    for key, title in titles.items():
        rows = [
            {
                **row,
                "value": words.get(row["value"], row["value"]) if key == "split" else row["value"],
            }
            for row in stages.evaluation.summary["breakdown"][key]
        ]
        if rows:
            found.append({"title": title, "rows": rows, "text": key != "kind"})
    return found


def examples(stages: Stages) -> list[dict[str, Any]]:
    """The first gaps of the sample, which is in random order and was drawn before any answer."""
    shown = []
    for row in _completions(stages.evaluation / "completions.jsonl", EXAMPLES):
        prefix, suffix = row["prefix"].split("\n"), row["suffix"].split("\n")
        shown.append(
            {
                **row,
                "before": "\n".join(prefix[-_PREFIX_LINES:]),
                "after": "\n".join(suffix[:_SUFFIX_LINES]),
                "more_before": len(prefix) > _PREFIX_LINES,
                "more_after": len(suffix) > _SUFFIX_LINES,
            }
        )
    return shown


def _completions(file: Path, limit: int) -> Iterator[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8") as lines:
            for _, line in zip(range(limit), lines, strict=False):
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{file} cannot be read: {error}.", advice="Delete its folder and evaluate again."
        ) from error


def _by_stream(streams: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Each stream's validation loss, where there is more than one."""
    if len(streams) < 2:
        return []
    return [
        (f"of {STREAMS.get(name, name)}", _base_to_saved(loss))
        for name, loss in sorted(streams.items(), key=_stream_place)
    ]


def _base_to_saved(loss: Mapping[str, float | None]) -> str | None:
    """From the base's loss to that of the model that was saved, which may have gone back a part."""
    return _from_to(loss.get("first"), loss.get("saved", loss.get("best")))


def _stream_place(item: tuple[str, Any]) -> tuple[int, str]:
    """codetune's own streams in the order of their making, then mixed sets by name."""
    name = item[0]
    return (list(STREAMS).index(name) if name in STREAMS else len(STREAMS), name)


def training_facts(stages: Stages) -> list[tuple[str, str]]:
    """The run in words; facts that a run does not state are left out."""
    s = stages.run.summary
    loss, validation = s.get("loss") or {}, s.get("validation") or {}
    facts = [
        ("Method", s.get("method")),
        ("Served", None if stages.card.shares_batches else ALONE[stages.card.kind]),
        ("Parameters", _of(s.get("parameters"), count)),
        ("of these trained", _trained(s)),
        ("Tokens", _of(s.get("tokens"), count)),
        ("Epochs", _of(s.get("epochs"), lambda v: f"{v:.2f}".rstrip("0").rstrip("."))),
        ("Steps", _of(s.get("steps"), count)),
        ("Time", _of(s.get("seconds"), duration)),
        ("Speed", _of(s.get("tokens_per_second"), lambda v: f"{count(round(v))} tokens a second")),
        ("Padding", _of(s.get("padding_share"), percent)),
        ("Peak memory", _of(s.get("peak_memory_bytes"), bytes_)),
        (
            "Training loss, first and last tenth of the steps",
            _from_to(loss.get("first"), loss.get("last")),
        ),
        ("Validation loss", _base_to_saved(validation)),
        *_by_stream(s.get("validation_by_stream") or {}),
        ("Best step", _of(s.get("best_step"), count)),
        ("Change kept, so as not to forget", _of(s.get("retention"), _retention)),
        ("Stopped early", "yes" if s.get("stopped_early") else None),
        ("Resumed at step", ", ".join(map(count, s.get("resumed_from") or [])) or None),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _retention(found: Mapping[str, float]) -> str:
    """The share of the change that is kept, and what it costs general code."""
    lost = {name: found[name] / found["base"] - 1 for name in ("trained", "kept")}
    if found["share"] == 1 and not found.get("bent"):
        return f"all of it: loss on general code {lost['kept']:+.1%}"
    share = "all but what acts on general code" if found["share"] == 1 else percent(found["share"])
    return f"{share}: loss on general code {lost['kept']:+.1%} instead of {lost['trained']:+.1%}"


def _instructions(number: int, summary: Mapping[str, Any]) -> str:
    """How many there are, and of which kinds; the most frequent first."""
    kinds = sorted((summary.get("instructions") or {}).items(), key=lambda item: -item[1])
    named = ", ".join(f"{kind} {count(found)}" for kind, found in kinds if found)
    return f"{count(number)} ({named})" if named else count(number)


def preflight_facts(stages: Stages) -> list[tuple[str, str]]:
    """What was foreseen before the first step; empty when the run has no such file."""
    file = stages.run / "preflight.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    facts = [
        ("Time foreseen", _of(found.get("seconds"), duration)),
        ("Memory foreseen", _of(found.get("memory_needed"), bytes_)),
        ("Memory at hand", _of(found.get("memory_limit"), bytes_)),
        ("Disk needed", _of(found.get("disk_needed"), bytes_)),
        ("Disk free", _of(found.get("disk_free"), bytes_)),
    ]
    return [(name, value) for name, value in facts if value is not None]


def data_facts(stages: Stages) -> list[tuple[str, str]]:
    """The dataset in words."""
    s = stages.dataset.summary
    made, split = s.get("examples") or {}, s.get("split") or {}
    streams = s.get("tokens_by_stream") or {}
    facts = [
        ("Whole-text examples", _of(made.get("ntp"), count)),
        ("Fill-in-the-middle examples", _of(made.get("fim"), count)),
        ("Instructions", _of(made.get("sft") or None, lambda number: _instructions(number, s))),
        ("Training tokens", _of(s.get("tokens"), count)),
        *(
            (f"of these {STREAMS.get(name, name)}", count(value))
            for name, value in sorted(streams.items(), key=_stream_place)
        ),
        ("Validation tokens", _of(s.get("validation_tokens"), count)),
        ("Held-out files", _of(s.get("heldout_files"), count)),
        ("Held-out bytes", _of(s.get("heldout_bytes"), bytes_)),
        ("of these by time", _of(split.get("time"), bytes_)),
        ("of these by file", _of(split.get("file"), bytes_)),
        ("Overlaps taken out", _of(s.get("leaked_removed"), count)),
        ("Held-out code found in training", _of(s.get("leaked"), count)),
    ]
    return [(name, value) for name, value in facts if value is not None]


def language_rows(stages: Stages) -> list[tuple[str, str, str]]:
    """Language, files, bytes of the kept corpus; the largest first."""
    found = stages.cleaned.summary.get("languages") or {}
    ordered = sorted(found.items(), key=lambda item: -item[1]["bytes"])
    return [(name, count(row["files"]), bytes_(row["bytes"])) for name, row in ordered]


def dropped_rows(stages: Stages) -> list[dict[str, Any]]:
    """Reason, number and a few files of what was left out; the most frequent first."""
    counts: Mapping[str, int] = stages.cleaned.summary.get("dropped") or {}
    named = _dropped_files(stages.cleaned / "dropped.parquet")
    return [
        {
            "reason": reason,
            "words": _REASONS.get(reason, ""),
            "files": count(number),
            "named": named.get(reason, []),
            "more": number - len(named.get(reason, [])),
        }
        for reason, number in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _dropped_files(file: Path) -> dict[str, list[str]]:
    """The first few paths of each reason; the whole list stays in the artifact."""
    import pyarrow.parquet as pq

    found: dict[str, list[str]] = {}
    if not file.exists():
        return found
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=4096, columns=["path", "reason"]):
            for row in batch.to_pylist():
                paths = found.setdefault(row["reason"], [])
                if len(paths) < _DROPPED_SHOWN:
                    paths.append(row["path"])
    return found


def lineage_facts(stages: Stages) -> list[tuple[str, str]]:
    """Everything that names the inputs of this model beyond doubt."""
    card, repository = stages.card, stages.repository
    facts = [
        ("Model", card.id),
        ("Base", card.base),
        ("Trained on top of", stages.scorecard.get("reference") or None),
        ("Base digest", card.base_digest),
        ("Repository", repository["name"]),
        ("Read from", repository["location"]),
        ("Newest commit", repository.get("commit")),
        ("Trained up to commit", repository.get("cutoff")),
        ("Licences", ", ".join(f"{name} ({count(n)} files)" for name, n in card.licences.items())),
        ("Secrets replaced", _of(stages.cleaned.summary.get("redactions"), count)),
        ("Sources digest", stages.collected.digest),
        ("Corpus digest", stages.cleaned.digest),
        ("Dataset digest", stages.dataset.digest),
        ("Run digest", stages.run.digest),
        ("Evaluation digest", stages.evaluation.digest),
        ("Options digest", card.config_digest),
        ("Created", card.created.replace("T", " ").replace("+00:00", " UTC")),
    ]
    return [(name, value) for name, value in facts if value]


def short_name(base: str) -> str:
    """The last part of a base's path or hub id."""
    return base.rstrip("/").rsplit("/", 1)[-1]


def _of(value: Any, words: Any) -> str | None:
    return None if value is None else str(words(value))


def _from_to(first: float | None, last: float | None) -> str | None:
    return None if first is None or last is None else f"{first:.3f} → {last:.3f} nats per token"


def _trained(summary: Mapping[str, Any]) -> str | None:
    trained, all_ = summary.get("trainable"), summary.get("parameters")
    if trained is None or not all_:
        return None
    return f"{count(trained)} ({percent(trained / all_)})"


def options_yaml(stages: Stages, sections: Mapping[str, Sequence[str]]) -> str:
    """The options that made this model, as a codetune.yaml; those of its search, if it had one."""
    import yaml

    artifacts = {
        "sources": stages.collected,
        "corpus": stages.cleaned,
        "dataset": stages.dataset,
        "training": stages.run,
        "evaluation": stages.evaluation,
    }
    values: dict[str, Any] = {"name": stages.card.name, "base": stages.card.base}
    for name, artifact in artifacts.items():
        derived = sections.get(name, ())
        values[name] = {k: v for k, v in artifact.config.items() if k not in derived}
    if stages.search is not None:
        for name in ("dataset", "training", "search"):
            values[name] = dict(stages.search.config[name])
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
