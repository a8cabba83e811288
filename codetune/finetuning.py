"""The Python API: tune a model on a list of texts, and ask it.

    from codetune import FineTuningConfig, PEFTAdapterManager

    manager = PEFTAdapterManager(FineTuningConfig(model_name="nano", num_epochs=3))
    if manager.setup_fine_tuning_pipeline(documents):
        manager.train_model()
    print(manager.generate_response("What is a basket?"))

It is the same journey that `codetune train` makes, on files written from the texts: they are
cleaned, held out, packed, trained on and resumed in the same way, below $CODETUNE_HOME.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import Artifact, digest_of, home, write_json
from codetune.errors import DatasetError, TrainingError
from codetune.pipeline import Journey
from codetune.progress import Progress
from codetune.project import ProjectConfig

if TYPE_CHECKING:
    from codetune.models.load import BaseModel

_ROLE = "user"
_ANY_LENGTH = 1 << 30  # characters


@dataclass
class FineTuningConfig:
    """What is tuned and how; `model_name` is as `--base`: nano, a folder, or a hub id."""

    model_name: str = "microsoft/DialoGPT-medium"
    max_length: int = 512  # tokens
    learning_rate: float = 2e-4
    num_epochs: float = 3
    batch_size: int = 4  # documents of `max_length` tokens
    gradient_accumulation_steps: int = 4
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    target_modules: list[str] | None = None  # all linear layers

    def options(self) -> ProjectConfig:
        """The same as a codetune.yaml would say it.

        Raises:
            ConfigError: a value that cannot be used, naming it.
        """
        micro = self.batch_size * self.max_length
        return ProjectConfig.load(
            {
                "base": self.model_name,
                # Who passes a text wants it learned: loaders give paragraphs without line ends.
                "corpus": {
                    "prose_alone": True,
                    "keep_generated": True,
                    "keep_vendored": True,
                    "longest_line": _ANY_LENGTH,
                    "largest_data": _ANY_LENGTH,
                },
                # Prose and code alike are learned as they stand; nothing general is mixed in.
                "dataset": {"window": self.max_length, "use_fim": False, "replay_share": 0.0},
                "training": {
                    "method": "lora",
                    "epochs": self.num_epochs,
                    "learning_rate": self.learning_rate,
                    "micro_batch_tokens": micro,
                    "batch_tokens": micro * self.gradient_accumulation_steps,
                    "rank": self.lora_rank,
                    "alpha": self.lora_alpha,
                    "rslora": False,  # alpha / rank, as these fields have always meant
                    "dropout": self.lora_dropout,
                    "target_modules": self.target_modules,
                },
            },
            "FineTuningConfig",
        )


class PEFTAdapterManager:
    """One base, one adapter trained on texts, and answers from both."""

    def __init__(
        self, config: FineTuningConfig | None = None, *, progress: Progress | None = None
    ) -> None:
        self.config = config or FineTuningConfig()
        self._options = self.config.options()
        self._progress = progress or Progress()
        self._journey: Journey | None = None
        self._trained: Artifact | None = None
        self._voice: Any = None  # (model, renderer)

    @property
    def is_trained(self) -> bool:
        """Whether `train_model` has finished."""
        return self._trained is not None

    @property
    def adapter_path(self) -> Path | None:
        """The folder of the trained adapter, None before `train_model`."""
        return self._trained / "model" if self._trained else None

    def setup_model(self) -> None:
        """Find the base and check that it can be used.

        Raises:
            ModelError, UnsafeModelError: it cannot.
        """
        self._base()

    def setup_fine_tuning_pipeline(self, documents: Iterable[Any]) -> bool:
        """Make training data of `documents`: texts, or objects with `page_content` or `text`.

        Returns True; everything that could go wrong is raised, with what to do about it.

        Raises:
            DatasetError: there are no texts, one text is given and not a list, or too little is
                left of them.
            CodetuneError: as the stages collect, clean and build.
        """
        if isinstance(documents, str | bytes):  # which would be read letter by letter
            raise DatasetError(
                "The documents are one text, and a list was expected.", advice="Pass [text]."
            )
        self.setup_model()
        texts = [_text_of(document, number) for number, document in enumerate(documents)]
        texts = [text for text in texts if text.strip()]
        if not texts:
            raise DatasetError("There are no documents to train on.", advice="Pass some texts.")
        folder = _write(texts)
        self._journey = Journey(str(folder), self._options, self._progress)
        self._journey.build()
        self._trained = self._voice = None
        return True

    def train_model(self) -> dict[str, Any]:
        """Train the adapter (or find it trained already); returns the run's summary.

        Raises:
            TrainingError: it is not set up, or the run cannot go on.
        """
        if self._journey is None:
            raise TrainingError(
                "There is nothing to train on yet.",
                advice="Call setup_fine_tuning_pipeline(documents) first.",
            )
        self._trained, self._voice = self._journey.train(), None
        return dict(self._trained.summary)

    def generate_response(self, prompt: str, max_new_tokens: int = 128) -> str:
        """The answer to `prompt`, by the tuned model or, before training, by the base.

        Raises:
            ModelError: the base or the adapter cannot be loaded.
        """
        import torch

        from codetune.models.seq2seq import Marks
        from codetune.serving.complete import turn_line

        model, renderer = self._loaded()
        ids = renderer.chat([{"role": _ROLE, "content": prompt}], add_generation_prompt=True)
        ids = ids[-self.config.max_length :]
        if model.config.is_encoder_decoder:
            ids = Marks.of(model.config).source(ids)  # as in training
        given = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            answer = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(renderer.chat_stops),
                pad_token_id=min(renderer.chat_stops),
            )[0]
        new = answer if model.config.is_encoder_decoder else answer[given.shape[1] :]
        kept = [token for token in new.tolist() if token not in renderer.chat_stops]
        text = str(renderer.decode(kept))
        # As when it is served: it ends where the model would begin another answer of its own.
        turn = turn_line(renderer)
        return (text.partition(turn)[0] if turn else text).strip()

    def _base(self) -> BaseModel:
        from codetune.registry.cards import Registry

        return Registry(home()).base(self.config.model_name)

    def _loaded(self) -> tuple[Any, Any]:
        if self._voice is None:
            from codetune.models.load import load_adapter, load_model
            from codetune.models.prompts import Renderer

            base = self._base()
            model: Any = load_model(base.path)
            if self._trained is not None:
                model = load_adapter(model, self._trained / "model", base=base)
            self._voice = model, Renderer.from_folder(base.path).with_template("auto")
        found: tuple[Any, Any] = self._voice
        return found


def _text_of(document: Any, number: int) -> str:
    """A document's text: itself, or its field as LangChain and `datasets` name it."""
    if isinstance(document, str):
        return _encodable(document)
    for name in ("page_content", "text", "content"):
        value = document.get(name) if isinstance(document, dict) else getattr(document, name, None)
        if isinstance(value, str):
            return _encodable(value)
    raise DatasetError(
        f"documents[{number}] is a {type(document).__name__} without a text.",
        advice="Pass strings, or objects with page_content, text or content.",
    )


def _encodable(text: str) -> str:
    """The text with "?" for half surrogates, which come from names that were no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _write(texts: Sequence[str]) -> Path:
    """The texts as files, in a folder named by what they say: the same texts, the same run."""
    place = home() / "texts" / digest_of(list(texts))
    folder, done = place / "documents", place / "done.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts):
            (folder / f"document-{number:05}.md").write_text(text)
        write_json(done, {"documents": len(texts)})
    return folder
