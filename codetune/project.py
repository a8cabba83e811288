"""codetune.yaml: the options of every station in one file, checked as a whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import model_validator

from codetune.accounts.config import AccountOptions
from codetune.bridges import axolotl
from codetune.corpus.config import CorpusOptions
from codetune.dataset.config import DatasetOptions
from codetune.errors import ConfigError
from codetune.evaluation.config import EvaluationOptions
from codetune.options import Options, option
from codetune.search.config import SearchOptions
from codetune.serving.config import ServingOptions
from codetune.sources.config import SourceOptions
from codetune.training.config import TrainingOptions

FILE_NAME = "codetune.yaml"
_log = logging.getLogger(__name__)


# What stands for a whole way of tuning. The rate is low, for the base's own knowledge is what
# goes on; general code is replayed, for the same reason (Ibrahim et al. 2024, arXiv 2403.08763).
PRESETS: dict[str, dict[str, Any]] = {
    "continued-pretraining": {
        "dataset": {"use_ntp": True, "use_fim": False, "use_sft": False},
        "training": {
            "method": "full",
            "learning_rate_scale": 0.3,
            "warmup": 0.1,
            "schedule": "cosine",
        },
    },
}


class ProjectConfig(Options):
    """What a project's codetune.yaml may say; every key has a default."""

    preset: Literal["continued-pretraining"] | None = option(
        None,
        description="Other defaults, under whatever else is set. continued-pretraining: every "
        "weight learns the plain text (training.method full, no FIM, no instructions) at 0.3 of "
        "the usual rate, warmed up over a tenth of the steps, with general code "
        "replayed as by default.",
    )
    name: str | None = option(None, description="Name of the tuned model; default: the source's.")
    base: str = option(
        "nano",
        description="The base model: nano (embedded), a folder, a Hugging Face id such as "
        "Qwen/Qwen2.5-Coder-1.5B, or a tuned model of yours to go on from (its adapter stays, "
        "and a thin one is trained on top).",
    )
    sources: SourceOptions = option(default_factory=SourceOptions, description="What is read.")
    corpus: CorpusOptions = option(default_factory=CorpusOptions, description="What is kept.")
    dataset: DatasetOptions = option(
        default_factory=DatasetOptions, description="How training and held-out data are made."
    )
    training: TrainingOptions = option(
        default_factory=TrainingOptions, description="How the base is tuned."
    )
    evaluation: EvaluationOptions = option(
        default_factory=EvaluationOptions, description="How the result is judged."
    )
    search: SearchOptions = option(
        default_factory=SearchOptions,
        description="Whether `codetune tune` tries other options first, and which; the other "
        "commands leave this section aside.",
    )

    serving: ServingOptions = option(
        default_factory=ServingOptions,
        description="How `codetune serve` and `codetune compare` serve, with --config.",
    )
    accounts: AccountOptions = option(
        default_factory=AccountOptions,
        description="How people log in to `codetune serve`, with --config.",
    )

    @model_validator(mode="before")
    @classmethod
    def _put_below(cls, values: Any) -> Any:
        """The preset's options, where no other value is given."""
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(name, str) or name not in PRESETS:
            return values
        filled = dict(values)
        for section, defaults in PRESETS[name].items():
            given = filled.get(section)
            if given is None or isinstance(given, Mapping):
                filled[section] = {**defaults, **(given or {})}
        return filled

    def with_values(self, values: Mapping[str, Any], where: str) -> ProjectConfig:
        """The same with other values of some options (dotted key → value).

        Raises:
            ConfigError: an option does not exist or cannot have this value.
        """
        all_values = self.model_dump(mode="json")
        for key, value in values.items():
            _put(all_values, key, value)
        return ProjectConfig.load(all_values, where)


def load_project(
    file: Path | None, overrides: Mapping[str, Any] | None = None, settings: Sequence[str] = ()
) -> ProjectConfig:
    """The file's options, then `overrides` (dotted key → value), then `--set key=value` lines.

    The file may be Axolotl's, too: what has no meaning here is then named in a log warning.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds an unknown or wrong option.
    """
    values = read_yaml(file) if file else {}
    where = str(file) if file else "defaults"
    if axolotl.is_axolotl(values):
        values, ignored = axolotl.read(values, where)
        if ignored:
            _log.warning("%s (Axolotl): ignored %s.", where, ", ".join(ignored))
    ProjectConfig.load(values, where)  # so that a wrong file is blamed before the command line
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(values, key, value)
    for line in settings:
        key, equals, text = line.partition("=")
        if not equals:
            raise ConfigError(f"--set {line}: expected KEY=VALUE, for example training.epochs=2.")
        _put(values, key.strip(), _yaml_value(text, line))
    return ProjectConfig.load(values, "the command line" if not file else f"{where} with --set")


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file's mapping, or the reason why it has none."""
    try:
        values = _parsed(file.read_text(), file.name)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{file} does not exist.", advice="`codetune init` writes one with every option."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected options (key: value), found {type(values).__name__}.")
    return values


class _Loader(yaml.SafeLoader):
    """YAML as its specification has it: a key stands once in a mapping.

    PyYAML keeps the last one, so that a second section of the same name would undo the first.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node


def _parsed(text: str, name: str) -> Any:
    """The value of a YAML text; `name` is what errors call it."""
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _yaml_value(text: str, line: str) -> Any:
    try:
        return _parsed(text, "--set")
    except (yaml.YAMLError, ValueError) as error:  # as above
        raise ConfigError(
            f"--set {line}: the value is not valid YAML.",
            advice="Quote what begins with *, @ or the like: 'sources.include=[\"*.py\"]'.",
        ) from error


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a number names an element of a list (dataset.mix.0.share)."""
    *parents, last = key.split(".")
    place: Any = values
    for parent in parents:
        if isinstance(place, list):
            if not parent.isdecimal() or int(parent) >= len(place):
                raise ConfigError(f"Option '{key}': there is no element '{parent}' in a list.")
            place = place[int(parent)]
        else:
            place[parent] = place.get(parent) or {}
            place = place[parent]
        if not isinstance(place, dict | list):
            raise ConfigError(f"Option '{key}': '{parent}' is not a section.")
    if isinstance(place, list):
        raise ConfigError(f"Option '{key}': name an option of one element, not the element.")
    place[last] = value
