"""The story: a repository becomes a model of its own, proved better and kept.

    collect → clean → build → (search →) train → evaluate → register

Each stage is one call that returns a finished artifact; a stage that is already done for the
same options and inputs is skipped, so that a re-run after a crash goes on where it stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune import trials
from codetune.artifacts import Artifact, digest_of, home, open_artifact
from codetune.corpus.clean import clean
from codetune.dataset.build import build
from codetune.progress import Progress
from codetune.project import ProjectConfig
from codetune.records import ModelCard, Repository
from codetune.sources.collect import collect
from codetune.workers import Workers

if TYPE_CHECKING:
    from codetune.models.load import BaseModel
    from codetune.search.search import Outcome, Report


def data_workers() -> Workers:
    """Processes that `collect`, `clean` and `build` share, while a `with` block lasts."""
    return Workers(needed=("codetune.corpus.examine", "codetune.dataset.leakage"))


@dataclass
class Journey:
    """One source on its way to a model; every stage runs the ones before it when needed."""

    source: str
    config: ProjectConfig
    progress: Progress
    collected: Path | None = None  # what an earlier try has read: the source is not read again
    yardstick: Artifact | None = None  # a dataset whose validation is scored, not the run's own
    found_by: Artifact | None = None  # the search that chose the options
    foreign_base: bool = False  # whatever it is called, the base is no model of the registry
    sites: Collection[str] | None = None  # as `collect` takes them

    def __post_init__(self) -> None:
        # The folder's name is a digest: what a user types never becomes a path.
        local = Path(self.source).expanduser()
        self.place = str(local.resolve()) if local.exists() else None  # on this machine
        self.folder = home() / "projects" / digest_of(self.place or self.source)
        self._collected = open_artifact(self.collected) if self.collected else None
        self._workers = data_workers()

    def collect(self) -> Artifact:
        """Every file of the source's past and present, with its commit.

        Read once: a commit that arrives meanwhile must not make two stages see two sources, and
        a remote repository is fetched a single time.
        """
        if self._collected is None:
            folder, options = self.folder / "sources", self.config.sources
            if options.commits is None:
                wanted = self.config.dataset.use_sft and (
                    {"commit", "explain"} & set(self.config.dataset.instructions.kinds)
                )
                options = options.model_copy(update={"commits": 4000 if wanted else 0})
            self._collected = collect(
                self.source,
                options,
                folder,
                self.progress,
                sites=self.sites,
                workers=self._workers,
            )
        return self._collected

    def clean(self) -> Artifact:
        """The files worth learning from; the others are listed with a reason."""
        with self._workers as workers:
            return clean(
                self.collect(),
                self.config.corpus,
                self.folder / "corpus",
                self.progress,
                workers=workers,
            )

    def build(self) -> Artifact:
        """Training examples and token stores; held-out code that never enters them."""
        base = self.base()  # one that does not exist is named before anything is read
        with self._workers as workers:
            return build(
                self.clean(),
                self.repository(),
                base.path,
                self.config.dataset,
                self.folder / "datasets",
                self.progress,
                workers=workers,
                learned=self._learned,
            )

    @cached_property
    def _learned(self) -> list[Artifact]:
        """The datasets that the base was tuned on, if it is a model of ours: not to be held out."""
        from codetune.registry.ancestry import learned
        from codetune.registry.cards import Registry

        if self.foreign_base:
            return []
        found, missing = learned(Registry(home()), self.config.base, home() / "projects")
        if missing:
            self.progress.say(
                f"What {', '.join(missing)} was trained on is not here any more: the scorecard may "
                "hold code that it knows."
            )
        return found

    def train(self, report: Report | None = None) -> Artifact:
        """The tuned weights, with the run's log and curves; `report` is for trials."""
        from codetune.models.footprint import bound_kernels
        from codetune.training.train import Trial, train

        bound_kernels()
        return train(
            self.build(),
            self.base(),
            self.config.training,
            self.folder / "runs",
            self.progress,
            trial=Trial(self.yardstick, report) if self.yardstick else None,
        )

    def search(self) -> Artifact:
        """Trials with other options, all judged by one validation set (see `trials`)."""
        from codetune.search.search import require, search

        require()  # Optuna, before any work is done
        yardstick = self._yardstick()

        def attempt(params: Mapping[str, Any], report: Report) -> Outcome:
            """An ordinary run, unless its report gives it up."""
            journey = self._with(trials.trial_config(self.config, params), yardstick)
            with trials.failures(as_given=not params):
                return trials.outcome(journey.train(report), report)

        return search(
            self.config.search,
            trials.make_space(self.config, self.base()),
            attempt,
            self.folder / "searches",
            self.progress,
            given=trials.identity(self.config, self.clean(), self.base(), yardstick),
        )

    def best(self) -> Journey:
        """This journey with the options that its search finds; itself where none is wanted."""
        if not self.config.search.trials:
            return self
        found = self.search()
        best = self._with(trials.best_config(self.config, found), self._yardstick())
        best.found_by = found
        return best

    def _yardstick(self) -> Artifact:
        """The dataset on whose validation text all trials are judged."""
        space = trials.make_space(self.config, self.base())
        yardstick = self._with(trials.yardstick_config(self.config, space)).build()
        trials.check_yardstick(self.config, yardstick)
        return yardstick

    def _with(self, config: ProjectConfig, yardstick: Artifact | None = None) -> Journey:
        return Journey(
            self.source,
            config,
            self.progress,
            self.collect().path,
            yardstick,
            foreign_base=self.foreign_base,
            sites=self.sites,
        )

    def evaluate(self) -> Artifact:
        """The scorecard: base against tuned on the held-out code."""
        from codetune.evaluation.evaluate import evaluate

        return evaluate(
            self.build(),
            self.base(),
            self.train(),
            self.config.evaluation,
            self.folder / "evaluations",
            self.progress,
        )

    def register(self) -> ModelCard:
        """The model in the registry with its card and report, promoted if the gate says so."""
        from codetune.evaluation.report import write_report
        from codetune.registry.cards import Registry

        registry = Registry(home())
        collected, cleaned, dataset = self.collect(), self.clean(), self.build()
        run, evaluation = self.train(), self.evaluate()
        card = registry.register(
            self.name(),
            run=run,
            evaluation=evaluation,
            dataset=dataset,
            cleaned=cleaned,
            repository=self.repository(),
            base=self.base(),
        )
        if self.found_by is not None:
            registry.keep_search(card, self.found_by)
        elif registry.search_of(card) is not None:
            return card  # a search has led here before, and its report says so
        write_report(
            registry.folder(card),
            collected=collected,
            cleaned=cleaned,
            dataset=dataset,
            run=run,
            evaluation=evaluation,
            card=card,
            search=self.found_by,
            place=self.place,
        )
        return card

    def repository(self) -> Repository:
        return Repository(**json.loads((self.collect() / "repository.json").read_text()))

    def base(self) -> BaseModel:
        """The base, or a model of the registry to go on from."""
        from codetune.models.load import resolve_base
        from codetune.registry.cards import Registry

        if self.foreign_base:
            return resolve_base(self.config.base)
        return Registry(home()).base(self.config.base)

    def name(self) -> str:
        """The model's name: the user's, or the last part of the repository's name."""
        if self.config.name:
            return self.config.name
        last = self.repository().name.rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"[^a-z0-9._-]+", "-", last.lower())[:90].strip("-._") or "model"


@dataclass(frozen=True)
class Tuned:
    """What `codetune tune` hands over."""

    card: ModelCard
    report: Path
    corpus: dict[str, Any]
    dataset: dict[str, Any]
    training: dict[str, Any]
    scorecard: dict[str, Any]
    search: dict[str, Any] | None = None  # only where other options were tried

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.card.id,
            "report": str(self.report),
            "promoted": self.card.promoted,
            "corpus": self.corpus,
            "dataset": self.dataset,
            "training": self.training,
            "scorecard": self.scorecard,
            **({"search": self.search} if self.search else {}),
        }


def tune(source: str, config: ProjectConfig, progress: Progress) -> Tuned:
    """Take `source` the whole way, from its files to a registered model with a scorecard."""
    return tuned(Journey(source, config, progress))


def tuned(journey: Journey) -> Tuned:
    """The journey's end; the stages that are missing are run.

    Raises:
        RegistryError: no model can be called so.
        CodetuneError: as the stages.
    """
    from codetune.registry.cards import Registry

    registry = Registry(home())
    registry.check_name(journey.name())  # not after all the work
    journey = journey.best()
    card = journey.register()
    return Tuned(
        card=card,
        report=registry.folder(card) / "report.html",
        corpus=dict(journey.clean().summary),
        dataset=dict(journey.build().summary),
        training=dict(journey.train().summary),
        scorecard=json.loads((journey.evaluate() / "scorecard.json").read_text()),
        search=dict(journey.found_by.summary) if journey.found_by else None,
    )
