"""§3 of the mission, row by row: how models are tuned, on tiny random ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact, home
from codetune.dataset.leakage import held_out_windows, measure
from codetune.models.load import check_adapter, resolve_base
from codetune.pipeline import Journey, tune
from codetune.progress import Progress, Quiet, Task
from codetune.records import ModelCard
from codetune.registry.cards import Registry
from codetune.serving.query import Text
from tests.mission.runs import answers, journey, merged_answer
from tests.unit.models.tiny_architectures import ARCHITECTURES
from tests.unit.serving.tiny_models import write_tokenizer

pytestmark = pytest.mark.usefixtures("home")
PROMPT = "def settle_basket(basket, limit="


def learned(run: Artifact) -> bool:
    """Whether the text kept for validation has become likelier."""
    validation = run.summary["validation"]
    return bool(validation["best"] < validation["first"])


def check_served(card: ModelCard, base: str) -> None:
    """The server writes what transformers writes with the tuned weights."""
    folder = Registry(home()).folder(card) / "model"
    if card.kind == "adapter":
        check_adapter(folder, base=resolve_base(base))
    wanted = merged_answer(card, folder, base, PROMPT)
    assert answers(base, Text(PROMPT), [card.id]) == [wanted]


@pytest.mark.parametrize("method", ["full", "lora", "dora", "qlora", "qlora8"])
def test_method_trains_saves_reloads_merges_and_serves(method: str, shop: Path, base: str) -> None:
    if method.startswith("qlora"):
        pytest.importorskip("bitsandbytes")
    work = journey(shop, base, name=method, training__method=method)
    card = work.register()
    assert learned(work.train())
    assert card.kind == ("full" if method == "full" else "adapter")
    check_served(card, base)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "starcoder2", "flan_t5"])
def test_model_of_each_family(architecture: str, shop: Path, tmp_path: Path) -> None:
    """GPT-2 (DialoGPT, CodeGPT), Llama (CodeLlama, DeepSeek-Coder, WizardCoder), StarCoder2, T5.

    Qwen2 is the base of the other tests.
    """
    import torch
    import transformers

    name, settings = ARCHITECTURES[architecture]
    folder = tmp_path / architecture
    folder.mkdir()
    sizes = {"vocab_size": write_tokenizer(folder)}
    sizes |= {key: 1024 for key in ("max_position_embeddings", "n_positions") if key in settings}
    ends = {"eos_token_id": 256, "pad_token_id": 256, "bos_token_id": None}
    config = getattr(transformers, name)(**settings | sizes | ends)
    torch.manual_seed(0)
    whole = architecture == "flan_t5"
    kind: Any = transformers.AutoModelForSeq2SeqLM if whole else transformers.AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)

    work = journey(shop, str(folder), name=architecture.replace("_", "-"), dataset__use_sft=True)
    card = work.register()
    assert learned(work.train())
    scores = card.metrics["tuned"]["bits_per_byte"], card.metrics["base"]["bits_per_byte"]
    assert 0 < scores[0]["value"] < scores[1]["value"]
    check_served(card, str(folder))


def test_axolotl_yaml_is_read_and_written(shop: Path, base: str, tmp_path: Path) -> None:
    """The nested lora: block trains; what is written for Axolotl is read back as the same."""
    import yaml

    from codetune.bridges import axolotl
    from codetune.project import load_project

    file = tmp_path / "axolotl.yaml"
    file.write_text(
        f"base_model: {base}\nnum_epochs: 1\nper_device_train_batch_size: 1\n"
        "gradient_accumulation_steps: 2\nlearning_rate: 1.0e-2\nsequence_len: 384\n"
        "lora: {r: 4, alpha: 8, dropout: 0.0}\n"
    )
    config = load_project(file, {}, ["training.max_steps=3"])
    run = Journey(str(shop), config, Progress()).train()
    assert (run.summary["method"], learned(run)) == ("lora", True)
    assert run.config["rank"] == 4
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(axolotl.write(config.model_dump(mode="json"), "train.jsonl")))
    assert load_project(again).training == config.training


def test_out_of_memory_keeps_batch_and_order(
    shop: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch is really asked for more than there is whenever a pass is too long."""
    from tests.unit.training.test_recovery import room_for

    def losses(run: Artifact) -> list[float]:
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [row["loss"] for row in rows if row["kind"] == "train"]

    options = {"training__micro_batch_tokens": 1536, "training__max_steps": 3}
    plain = journey(shop, base, **options).train()
    monkeypatch.setenv("CODETUNE_HOME", str(home().parent / "small"))
    with room_for(900):
        small = journey(shop, base, **options).train()
    assert small.summary["recovery"] and not plain.summary["recovery"]
    # Passes of other lengths round otherwise in bf16; another batch would be some per cent away.
    assert losses(small) == pytest.approx(losses(plain), rel=1e-3)


def test_continual_learning_is_measured(shop: Path, base: str) -> None:
    """Replay is in the data, general code in the scorecard; memory is saved the same way."""
    work = journey(
        shop,
        base,
        name="careful",
        dataset__replay_share=0.4,
        training__gradient_checkpointing=True,
        training__forgetting_limit=0.01,
        evaluation__forgetting_limit=0.5,
    )
    card = work.register()
    tokens = work.build().summary["tokens_by_stream"]
    assert 0.2 < tokens["replay"] / sum(tokens.values()) < 0.6
    assert card.metrics["change"]["general_bits_per_byte"] is not None
    assert card.metrics["tuned"]["n"]["general_bytes"] == 600
    plain = journey(shop, base, dataset__replay_share=0.4).train().summary["loss"]
    assert work.train().summary["loss"]["last"] == pytest.approx(plain["last"], rel=1e-3)


def test_continued_pretraining(shop: Path, base: str) -> None:
    work = journey(
        shop, base, name="pretrained", preset="continued-pretraining", training__learning_rate=None
    )
    assert set(work.build().summary["fim_kinds"]) == set()
    assert work.register().kind == "full"
    assert learned(work.train())


def test_search_picks_the_best_trial(shop: Path, base: str) -> None:
    pytest.importorskip("optuna")
    work = journey(
        shop,
        base,
        name="searched",
        search__trials=2,
        search__parameters=("learning_rate", "rank"),
        search__rank=(2, 4),
        training__learning_rate=None,
    )
    found = tune(str(shop), work.config, Progress())
    assert found.card.name == "searched"
    registry = Registry(home())
    assert registry.get("searched").id == found.card.id
    # The same options without a search lead to the same version, whose report stays.
    search = registry.search_of(found.card)
    assert search is not None
    best = search["best"]  # of trial 0 the options are as given
    changed = {key.replace(".", "__"): value for key, value in best["params"].items()}
    options = {"training__learning_rate": None} | (changed if best["trial"] else {})
    assert journey(shop, base, name="searched", **options).register().id == found.card.id
    assert "(search.png)" in (registry.folder(found.card) / "report.md").read_text()


def test_adapters_versions_and_the_base_to_fall_back_on(shop: Path, base: str) -> None:
    """Two tasks' adapters and the base in one batch; a second version; a personal one on top."""
    one = journey(shop, base, name="tasks", training__rank=2).register()
    two = journey(shop, base, name="tasks", training__rank=4).register()
    other = journey(shop, base, name="chores", dataset__use_fim=False).register()
    assert (one.id, two.id, other.id) == ("tasks:1", "tasks:2", "chores:1")
    mine = journey(shop, "tasks:2", name="mine", training__rank=2).register()
    assert (mine.metrics["reference"], mine.parents) == ("tasks:2", ("tasks:2", base))
    names = [Path(base).name, one.id, two.id, other.id, mine.id]
    together = answers(base, Text(PROMPT), names)
    assert together == [answers(base, Text(PROMPT), [name])[0] for name in names]
    assert len({*together}) > 1
    # Of a name the promoted version answers, else the newest; without a name, what is promoted.
    Registry(home()).promote("tasks:1")
    assert answers(base, Text(PROMPT), ["tasks"]) == [together[1]]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_the_base_has_learned_is_not_held_out(method: str, shop: Path, base: str) -> None:
    """Another seed sets other files aside, on which the first run was trained."""
    team = journey(shop, base, name="team", training__method=method)
    card = team.register()
    seen = team.build()
    again = journey(shop, card.id, dataset__seed=3).build()
    rows = dict(held_out_windows(again.path))
    assert again.digest != seen.digest and rows
    tokenizer = resolve_base(base).path
    assert measure(seen.path, tokenizer, rows=rows).leaked == 0
    # The same files may be validated on again.
    alike = journey(shop, card.id).build().summary
    assert alike["validation_tokens"] == seen.summary["validation_tokens"] > 0
    assert alike["heldout_bytes"] == seen.summary["heldout_bytes"]
    plain = journey(shop, base, dataset__seed=3).build()
    assert measure(seen.path, tokenizer, rows=dict(held_out_windows(plain.path))).leaked > 0

    above = journey(shop, card.id, name="above").register() if method == "lora" else None
    shutil.rmtree(seen.path)
    said: list[str] = []

    class Screen(Quiet):
        def say(self, text: str) -> None:
            said.append(text)

    journey(shop, card.id, progress=Progress(Screen()), dataset__seed=4).build()
    assert any(line.startswith(f"What {card.id} was trained on is not here") for line in said)
    if above is not None:  # whose card still names the one below
        Registry(home()).remove(card.id)
        said.clear()
        journey(shop, above.id, progress=Progress(Screen()), dataset__seed=4).build()
        assert any(line.startswith(f"What {card.id} was trained on is not here") for line in said)


def test_progress_loss_and_logs_are_shown_and_kept(
    shop: Path, base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path))
    seen: list[tuple[str, float]] = []

    class Screen(Quiet):
        def update(self, task: Task) -> None:
            seen.append((task.label, task.done))

        finish = update  # updates are rare enough for a terminal: the last one may be left out

    run = journey(shop, base, progress=Progress(Screen())).train()
    steps = [done for label, done in seen if label.startswith("Training")]
    assert steps == sorted(steps) and steps[-1] == 4
    assert "finished" in (run / "training.log").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
