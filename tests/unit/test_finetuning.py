"""The documented Python example runs as it stands, on nano."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from codetune.errors import ConfigError, DatasetError, TrainingError

TOPICS = ["basket", "invoice", "parcel", "ledger", "voucher", "refund", "courier", "tariff"]


def documents() -> list[str]:
    """Different texts of some paragraphs each."""
    return [
        f"# The {topic}\n\n"
        + "\n\n".join(
            f"A {topic} of kind {number} belongs to customer {number * 7 + len(topic)}. "
            f"When a {topic} is closed, the clerk writes its sum of {number * number + place} "
            f"coins into book {place + number} and tells the {TOPICS[(place + number) % 8]} desk."
            for number in range(1, 9)
        )
        for place, topic in enumerate(TOPICS)
    ]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_documented_example_trains_and_answers() -> None:
    from codetune import FineTuningConfig, PEFTAdapterManager

    config = FineTuningConfig(
        model_name="nano",
        num_epochs=1,
        learning_rate=2e-3,
        max_length=128,
        batch_size=2,
        gradient_accumulation_steps=2,
    )
    manager = PEFTAdapterManager(config)
    untrained = manager.generate_response("What is a basket?", max_new_tokens=8)

    success = manager.setup_fine_tuning_pipeline(documents())
    if success:
        summary = manager.train_model()
    response = manager.generate_response("What is a basket?", max_new_tokens=8)

    assert success and manager.is_trained
    assert summary["method"] == "lora"
    assert summary["validation"]["best"] < summary["validation"]["first"] - 0.1
    assert isinstance(response, str) and isinstance(untrained, str)
    assert manager.adapter_path is not None
    assert (manager.adapter_path / "adapter_model.safetensors").exists()
    # The adapter is in use: the text it learned has become likelier.
    again = PEFTAdapterManager(config)
    again.setup_fine_tuning_pipeline(documents())
    assert again.train_model() == summary  # found, not trained again


def test_an_answer_ends_where_the_model_would_begin_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from codetune import FineTuningConfig, PEFTAdapterManager

    class Talker:
        """Writes nano's turns, as a small model does that forgets to end its answer."""

        config, device = SimpleNamespace(is_encoder_decoder=False), torch.device("cpu")

        def generate(self, input_ids: torch.Tensor, **options: object) -> torch.Tensor:
            said = renderer.plain("A container.\nassistant:\nNo.\nassistant:\n")
            return torch.cat([input_ids, torch.tensor([said])], dim=1)

    manager = PEFTAdapterManager(FineTuningConfig(model_name="nano"))
    _, renderer = manager._loaded()
    monkeypatch.setattr(manager, "_voice", (Talker(), renderer))
    assert manager.generate_response("What is a basket?") == "A container."


def test_documents_may_be_objects(home: Path) -> None:
    from codetune import FineTuningConfig, PEFTAdapterManager

    class Page:
        def __init__(self, text: str) -> None:
            self.page_content = text

    manager = PEFTAdapterManager(FineTuningConfig(model_name="nano"))
    assert manager.setup_fine_tuning_pipeline([Page(text) for text in documents()])
    with pytest.raises(DatasetError, match=r"documents\[1\] is a int"):
        manager.setup_fine_tuning_pipeline(["text", 3])


def test_long_paragraphs_and_odd_characters_are_learned_too(home: Path) -> None:
    from codetune import FineTuningConfig, PEFTAdapterManager
    from codetune.dataset.table import read_examples

    long = [
        " ".join(
            f"Rule {n} of the {topic} asks for {n * n + 31 * place} coins." for n in range(150)
        )
        for place, topic in enumerate(TOPICS)
    ]
    assert min(map(len, long)) > 5_000
    manager = PEFTAdapterManager(FineTuningConfig(model_name="nano"))
    assert manager.setup_fine_tuning_pipeline([*long, "A name: caf\udce9. " * 20])
    (table,) = home.rglob("examples.parquet")
    learned = " ".join(example.text or "" for example in read_examples(table))
    assert "caf?" in learned
    assert any(text[:40] in learned for text in long)


def test_mistakes_are_named() -> None:
    from codetune import FineTuningConfig, PEFTAdapterManager

    with pytest.raises(ConfigError, match="learning_rate"):
        PEFTAdapterManager(FineTuningConfig(learning_rate=-1))
    manager = PEFTAdapterManager(FineTuningConfig(model_name="nano"))
    with pytest.raises(DatasetError, match="no documents"):
        manager.setup_fine_tuning_pipeline([" "])
    with pytest.raises(DatasetError, match="one text, and a list"):
        manager.setup_fine_tuning_pipeline("hello world")
    with pytest.raises(TrainingError, match="setup_fine_tuning_pipeline"):
        manager.train_model()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import codetune, sys; assert 'torch' not in sys.modules and 'yaml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_are_the_documented_ones() -> None:
    from codetune import FineTuningConfig

    config = FineTuningConfig()
    assert (config.model_name, config.max_length) == ("microsoft/DialoGPT-medium", 512)
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (16, 32, 0.1)
    assert (config.learning_rate, config.num_epochs, config.batch_size) == (2e-4, 3, 4)
    assert config.gradient_accumulation_steps == 4 and config.target_modules is None
    training = config.options().training
    assert training.batch_tokens == 4 * 4 * 512 and not training.rslora
