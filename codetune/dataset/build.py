"""Build: cleaned documents become examples, tokens and held-out code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from codetune.artifacts import Artifact, run_stage, write_json
from codetune.dataset.catalogue import batches, read_catalogue, read_documents
from codetune.dataset.config import DatasetOptions
from codetune.dataset.conversations import Conversations
from codetune.dataset.encoded import forget_renderer, renderer_of
from codetune.dataset.examples import PackingParts
from codetune.dataset.heldout import write_fim, write_text
from codetune.dataset.instruct.make import Made
from codetune.dataset.instructions import CHOSEN, Instructions
from codetune.dataset.leakage import Purged, held_out_windows, measure, purge, stored_texts
from codetune.dataset.manifest import Mixed, Own, manifest
from codetune.dataset.mix import Mixture, inputs_of
from codetune.dataset.output import ByPart, Output
from codetune.dataset.recipe import Recipe, resolve
from codetune.dataset.refusals import check_refused
from codetune.dataset.replay import replay_documents
from codetune.dataset.review import Review
from codetune.dataset.split import Split, split
from codetune.dataset.table import ExamplesFile
from codetune.dataset.windows import WindowSet, telling_windows
from codetune.errors import DatasetError
from codetune.models.nano.general import replay_digest
from codetune.models.prompts import Renderer
from codetune.models.prompts.templates import TEMPLATE_FILE
from codetune.models.tokens import TokenWriter
from codetune.progress import Progress
from codetune.records import Document, Repository
from codetune.tables import read_rows
from codetune.workers import Workers

VERSION = 11  # raised when the same inputs give other files
_BATCH = 250_000  # characters that a process gets at a time
_PACKED = 4  # bytes of text in a byte of documents.parquet, about


def build(
    cleaned: Artifact,
    repository: Repository,
    base: Path,
    options: DatasetOptions,
    folder: Path,
    progress: Progress,
    *,
    workers: Workers | None = None,
    learned: Sequence[Artifact] = (),
) -> Artifact:
    """Split, draw examples, tokenise for the base whose tokenizer is in `base`.

    What the base was tuned on already (its datasets are in `learned`) is not held out.

    The artifact holds `examples.parquet`, the token stores `tokens/` and `validation/`,
    `heldout.parquet` and `heldout_fim.parquet`, and `mix.json`, which says of every stream how
    many tokens it has; with conversations, also `chat_template.jinja`. The same inputs and seed
    give the same bytes, whatever the number of `workers` (by default one a core, for more than a
    few megabytes).

    Raises:
        DatasetError: the options do not suit the base, or there is too little text.
        ModelError: the tokenizer cannot be used.
    """
    renderer = renderer_of(base).with_template(options.template)
    review = Review.load(Path(options.review).expanduser()) if options.review else Review()
    recipe = resolve(options, renderer, base, repository, review)
    documents = cleaned / "documents.parquet"
    work = _Build(documents, base, renderer, options, recipe, progress)
    work.workers = workers or Workers()
    work.review = review
    inputs = {"corpus": cleaned.digest, "tokenizer": Renderer.digest_of(base)}
    inputs |= inputs_of(options)
    work.learned = [dataset.path for dataset in learned]
    inputs |= {f"learned {n}": dataset.digest for n, dataset in enumerate(learned)}
    if options.replay_share:
        inputs["replay"] = replay_digest()
    work.digests = inputs
    config = options.model_dump() | {"recipe": asdict(recipe), "version": VERSION}
    try:
        return run_stage("dataset", folder, config, inputs, work.make)
    finally:
        forget_renderer()


@dataclass
class _Build:
    documents: Path
    base: Path
    renderer: Renderer
    options: DatasetOptions
    recipe: Recipe
    progress: Progress
    workers: Workers = field(default_factory=Workers)
    replay: Sequence[Document] = ()
    learned: Sequence[Path] = ()  # datasets that the base was tuned on
    instructions: Instructions | None = None
    review: Review = field(default_factory=Review)
    digests: Mapping[str, str] = field(default_factory=dict)  # of what the dataset is made of
    mixture: Mixture | None = None

    def make(self, folder: Path) -> dict[str, Any]:
        """The stage: split, purge, write what is held out, write examples, measure."""
        with self.workers as workers:
            workers.expect(self.documents.stat().st_size * _PACKED)
            workers.prepare(PackingParts, self._packing)  # meanwhile, they start
            with self.progress.task("Choosing what to hold out"):
                entries = read_catalogue(self.documents)
                if not entries:
                    raise DatasetError("The corpus holds no documents.")
                parts = split(self.documents, entries, self.options)
            self.replay = self._replay_for(parts.training_bytes)
            return self._make(folder, parts, workers)

    def _replay_for(self, learned: int) -> Sequence[Document]:
        """General code that has its share beside so many bytes."""
        share = self.options.replay_share
        return replay_documents(round(learned * share / (1 - share)), self.options.seed)

    def _make(self, folder: Path, parts: Split, workers: Workers) -> dict[str, Any]:
        purged = self._purge(parts, workers)
        made = self._instruct(folder, parts, purged, workers)
        if made and not self.recipe.code:  # fewer of the same, for only instructions are learned
            self.replay = self._replay_for(min(made.characters, parts.training_bytes))
        text = write_text(folder / "heldout.parquet", purged.scored, self.options)
        if not text["rows"]:
            raise self._nothing_held_out(purged)
        fim_files = purged.scored if self.renderer.fim is not None else []
        fim_file = folder / "heldout_fim.parquet"
        with ThreadPoolExecutor(1) as aside:  # while the processes make examples
            writing = aside.submit(write_fim, fim_file, fim_files, self.options)
            if self.options.mix:
                writing.result()  # what is mixed in must not hold the prompts
            self.mixture = self._prepare_mix(folder, parts, purged)
            looked_for = aside.submit(lambda: dict(held_out_windows(folder)))
            training, replay, validation = self._write(folder, parts, purged, workers)
            fim = writing.result()
            leakage = measure(folder, self.base, self.progress, workers, rows=looked_for.result())
        self._say(training, text, fim)
        fim_leaks = fim.pop("leaked", 0)
        streams = ("ntp", "fim", "sft") if made else ("ntp", "fim")
        mixed = self._write_manifest(folder, training, replay)
        return {
            "examples": {s: training[f"examples {s}"] for s in streams}
            | {one.name: one.examples for one in mixed},
            "tokens": sum(part[f"tokens {s}"] for s in streams for part in (training, replay))
            + sum(one.tokens for one in mixed),
            "tokens_by_stream": {s: training[f"tokens {s}"] for s in streams}
            | {"replay": replay["tokens ntp"] + replay["tokens fim"]}
            | {one.name: one.tokens for one in mixed},
            "documents": training["documents"] - training["examples sft"],
            "bytes": training["bytes"],
            "window": self.recipe.window,
            "files_in_pieces": training["files in pieces"],
            "replay": {"documents": replay["documents"], "bytes": replay["bytes"]},
            "fim_kinds": _named(training, "kind "),
            "fim_orders": _named(training, "order "),
            "heldout_files": text["files"],
            "heldout_bytes": text["bytes"],
            "heldout_rows": text["rows"],
            "heldout_fim": sum(fim.values()),
            "heldout_fim_kinds": dict(sorted(fim.items())),
            "validation_tokens": sum(validation[f"tokens {s}"] for s in streams)
            + sum(one.held_tokens for one in mixed),
            "validation_files": validation["documents"] - validation["examples sft"],
            "leaked": leakage.leaked,
            "leaked_removed": purged.near_duplicates + purged.runs_removed + fim_leaks,
            "leakage": {
                "near_duplicate_files_removed": purged.near_duplicates,
                "runs_removed": purged.runs_removed,
                "prompts_removed": fim_leaks,
                "windows_looked_for": leakage.windows,
                "documents_read": leakage.documents,
            },
            "split": parts.notes
            | {s: text.get(f"{s} bytes", 0) for s in ("time", "file")}
            | {"cutoff": self.recipe.commit or ""},
            "languages": _named(training, "language "),
            **(made.summary() | _counted(training, folder) if made else {}),
        }

    def _instruct(
        self, folder: Path, parts: Split, purged: Purged, workers: Workers
    ) -> Made | None:
        """Write the instructions, if they are wanted, before the held-out text is thinned out."""
        if not self.options.use_sft:
            return None
        self.instructions = Instructions(
            self.documents, self.options, self.recipe, workers, self.review, self.progress
        )
        with self.progress.task("Making instructions"):
            return self.instructions.write(folder, parts, purged)

    def _prepare_mix(self, folder: Path, parts: Split, purged: Purged) -> Mixture | None:
        """What is mixed in must hold nothing of the held-out rows and of the validation files."""
        if not self.options.mix:
            return None
        windows = [found.hashes for _, found in held_out_windows(folder)]
        windows += [telling_windows(document.text).hashes for document in purged.validation]
        return Mixture(
            self.options,
            Conversations(self.renderer, self.recipe.window),
            WindowSet(windows),
            self.review,
            self.progress,
            self.digests,
            parts.training_bytes,
        )

    def _write_manifest(
        self, folder: Path, training: Counter[str], replay: Counter[str]
    ) -> Sequence[Mixed]:
        """Write mix.json and, if there are conversations, the template they are written in."""
        mixed = self.mixture.streams if self.mixture is not None else []
        share, rate = self.options.replay_share, self.recipe.fim_rate
        code = (1 - share) if not self.options.use_sft else None  # beside it, as much as there is
        own = [
            Own(
                name,
                training[f"examples {name}"],
                training[f"tokens {name}"],
                wanted,
                self.digests["corpus"],
                _named(training, "shortened ") if name == "sft" else None,
            )
            for name, wanted in (
                ("ntp", code and code * (1 - rate)),
                ("fim", code and code * rate),
                ("sft", None),
            )
        ]
        examples = replay["examples ntp"] + replay["examples fim"]
        tokens = replay["tokens ntp"] + replay["tokens fim"]
        if share:
            own.append(Own("replay", examples, tokens, code and share, self.digests["replay"]))
        write_json(folder / "mix.json", manifest(own, mixed, self.options.seed))
        if training["examples sft"] or any(one.has_answers for one in mixed):
            (folder / TEMPLATE_FILE).write_text(self.renderer.template, encoding="utf-8")
        return mixed

    def _purge(self, parts: Split, workers: Workers) -> Purged:
        label = "Looking for held-out text in training text"
        with self.progress.task(label, total=parts.training_bytes, unit="B") as task:

            def stream() -> Iterable[list[Document]]:
                for batch in batches(read_documents(self.documents, parts.training), _BATCH):
                    yield batch
                    task.advance(sum(len(document.text) for document in batch))
                yield from batches(iter(self.replay), _BATCH)
                yield from self._learned("tokens")

            return purge(
                parts.candidates,
                iter(stream()),
                self.options.similarity,
                workers,
                validated=self._learned("validation"),
            )

    def _learned(self, store: str) -> Iterator[list[Document]]:
        for dataset in self.learned:
            yield from batches(stored_texts(dataset / store, self.base), _BATCH)

    def _write(
        self, folder: Path, parts: Split, purged: Purged, workers: Workers
    ) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """The repository's examples with their tokens, the replayed ones, the validation's."""
        vocabulary = self.renderer.vocab_size
        names = [one.name for one in self.options.mix]
        with (
            ExamplesFile(folder / "examples.parquet") as table,
            TokenWriter(folder / "tokens", vocabulary, names) as tokens,
            TokenWriter(folder / "validation", vocabulary, names) as held_tokens,
            self.progress.task("Building", total=parts.training_bytes, unit="B") as task,
        ):
            output, held = Output(tokens, table), Output(held_tokens, None)
            self._write_instructions(folder, output)
            batches = self._batches(parts, purged)
            with closing(workers.map(PackingParts, self._packing, batches)) as packed:
                by_part = ByPart(packed)
                for one in by_part.all_of("code"):
                    output.add(one)
                    task.advance(one.counts["bytes"])
                # General code is counted apart: it is nothing of the repository's.
                own, output.counts = output.counts, Counter(documents=output.counts["documents"])
                for one in by_part.all_of("replay"):
                    output.add(one)
                for one in by_part.all_of("validation"):
                    held.add(one)
            if self.mixture is not None:
                self.mixture.add_training(tokens, table, output.counts["documents"])
            output.counts["documents"] -= own["documents"]
            if self.instructions is not None:
                pairs = self.instructions.validation(folder, purged)
                held.encode(self.instructions, self.base, pairs)
            if self.mixture is not None:
                self.mixture.add_validation(held_tokens, held.counts["documents"])
        return own, output.counts, held.counts

    @property
    def _packing(self) -> tuple[Path, Mapping[str, Recipe]]:
        """The arguments of `PackingParts`."""
        general = replace(self.recipe, commit=None, replayed=True)
        return self.base, {"code": self.recipe, "replay": general, "validation": self.recipe}

    def _batches(self, parts: Split, purged: Purged) -> Iterator[tuple[str, list[Document]]]:
        """All that becomes examples, by part, in one stream: no process waits between two."""
        training = read_documents(self.documents, parts.training)
        if self.recipe.code:
            for batch in batches(chain(training, purged.returned), _BATCH):
                yield "code", batch
        for batch in batches(iter(self.replay), _BATCH):
            yield "replay", batch
        if self.recipe.code:
            for batch in batches(iter(purged.validation), _BATCH):
                yield "validation", batch

    def _write_instructions(self, folder: Path, output: Output) -> None:
        """Tokenise the instructions, which stand before the code.

        Raises:
            DatasetError: too many are refused, or they alone are wanted and there are none.
        """
        if self.instructions is None:
            return
        pairs = self.instructions.training(folder)
        refused = output.encode(self.instructions, self.base, pairs)
        self.instructions.finish(folder)
        unfit = {reason: n for reason, n in refused.items() if reason not in CHOSEN}
        asked = output.counts["examples sft"] + sum(unfit.values())
        check_refused("sft", unfit, asked, self.options.refused_at_most)
        if refused:
            reasons = ", ".join(f"{n} because {reason}" for reason, n in refused.most_common())
            self.progress.say(f"Instructions that are not trained on: {reasons}.")
        if not self.recipe.code and not output.counts["examples sft"]:
            raise DatasetError(
                "No instruction could be made of this source, and nothing else is wanted.",
                advice="Add ntp to --data, or name a repository with documentation and tests.",
            )
        output.counts.update({f"refused {reason}": n for reason, n in refused.items()})

    def _nothing_held_out(self, purged: Purged) -> DatasetError:
        return DatasetError(
            "Nothing could be held out: every candidate has a copy in the training text "
            f"({purged.near_duplicates} near-duplicate files, {purged.runs_removed} copied runs "
            "of lines).",
            advice="Name a larger repository, or raise dataset.holdout_share.",
        )

    def _say(self, training: Counter[str], text: Mapping[str, int], fim: Mapping[str, int]) -> None:
        named = {"ntp": "next-token", "fim": "fill-in-the-middle", "sft": "instruction"}
        counts = [f"{training[f'examples {s}']} {n}" for s, n in named.items()]
        counts = counts if self.instructions is not None else counts[:2]
        self.progress.say(
            f"{', '.join(counts[:-1])} and {counts[-1]} examples; "
            f"held out: {text['bytes']} bytes of {text['files']} files."
        )
        if self.renderer.fim is None:
            self.progress.say(
                "The base has no fill-in-the-middle tokens: only next-token prediction is trained."
            )


def _counted(training: Counter[str], folder: Path) -> dict[str, Any]:
    """Of the instructions: what the base's window or template refuses or cuts, what is held out."""
    return {
        "instructions_refused": _named(training, "refused "),
        "instructions_shortened": _named(training, "shortened "),
        "heldout_sft": sum(1 for _ in read_rows(folder / "heldout_sft.parquet", ["id"])),
    }


def _named(counts: Counter[str], prefix: str) -> dict[str, int]:
    """The counts whose name starts with `prefix`, without it."""
    return {
        name.removeprefix(prefix): count
        for name, count in sorted(counts.items())
        if name.startswith(prefix)
    }
