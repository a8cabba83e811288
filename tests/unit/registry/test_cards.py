"""The registry: names, versions, promotion, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import open_artifact
from codetune.errors import ConflictError, ModelError, RegistryError, UnsafeModelError
from codetune.registry.cards import Registry
from codetune.registry.naming import begin_rename

Stages = Callable[..., dict[str, Any]]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home")


def test_a_card_says_where_the_model_comes_from(registry: Registry, made: Stages) -> None:
    card = registry.register("mine", **made())
    assert (card.id, card.kind, card.method, card.base) == (
        "mine:1",
        "adapter",
        "lora",
        "someone/base",
    )
    assert card.commits == {"github.com/x/y": "a" * 40}  # the cut-off: what it was trained on
    assert list(card.licences.items()) == [("Apache-2.0", 7), ("MIT", 3)]
    assert card.metrics["tuned"]["bits_per_byte"]["value"] == 1.5
    assert registry.get("mine:1") == card
    assert json.loads(json.dumps(asdict(card)))["id"] == "mine:1"


def test_the_files_of_the_run_are_kept(registry: Registry, made: Stages) -> None:
    parts = made()
    card = registry.register("mine", **parts)
    kept = registry.folder(card) / "model" / "adapter_model.safetensors"
    trained = parts["run"] / "model" / "adapter_model.safetensors"
    assert kept.read_bytes() == trained.read_bytes()
    assert kept.samefile(trained)  # a hard link: a model of gigabytes is on the disk once
    trained.unlink()
    assert registry.list()[-1] == card


def test_the_same_run_is_the_same_version(registry: Registry, made: Stages) -> None:
    first = registry.register("mine", **made(1))
    assert registry.register("mine", **made(1)) == first
    assert registry.register("mine", **made(2)).version == 2
    assert registry.register("other", **made(1)).id == "other:1"


def test_a_new_evaluation_of_the_same_run_updates_its_card(
    registry: Registry, made: Stages
) -> None:
    assert registry.register("mine", **made(1, promoted=True)).promoted
    judged = registry.register("mine", **made(1, promoted=False, judged=1))
    assert (judged.id, judged.promoted) == ("mine:1", False)
    assert not registry.get("mine").promoted


def test_a_name_means_the_newest_promoted_version(registry: Registry, made: Stages) -> None:
    registry.register("mine", **made(1, promoted=False))
    assert registry.get("mine").id == "mine:1"  # a candidate is better than nothing
    registry.register("mine", **made(2, promoted=True))
    registry.register("mine", **made(3, promoted=False))
    assert registry.get("mine").id == "mine:2"
    assert registry.promote("mine:3").metrics["reasons"] == ["Better.", "Promoted by hand."]
    assert registry.get("mine").id == "mine:3"


def test_promoting_an_older_version_is_the_way_back(registry: Registry, made: Stages) -> None:
    for number in (1, 2, 3):
        registry.register("mine", **made(number))
    registry.register("other", **made(4))
    assert registry.promote("mine:2").id == "mine:2"
    assert registry.get("mine").id == "mine:2"
    promoted = {card.id: card.promoted for card in registry.list() if card.kind != "base"}
    assert promoted == {"mine:1": True, "mine:2": True, "mine:3": False, "other:1": True}
    assert registry.get("mine:3").metrics["reasons"][-1] == "mine:2 was promoted by hand instead."
    assert registry.get("mine:2").metrics["reasons"] == ["Better."]  # it was promoted before


def test_promotion_by_hand_survives_the_same_run(registry: Registry, made: Stages) -> None:
    registry.register("mine", **made(1, promoted=False))
    registry.promote("mine:1")
    assert registry.register("mine", **made(1, promoted=False)).promoted


def test_an_unknown_name_is_answered_with_the_nearest(registry: Registry, made: Stages) -> None:
    registry.register("requests", **made())
    with pytest.raises(RegistryError, match="Did you mean 'requests'") as error:
        registry.get("request")
    assert "There is no model 'request'" in error.value.message
    with pytest.raises(RegistryError, match="Did you mean 'requests:1'"):
        registry.get("requests:2")


def test_an_unknown_base_is_answered_with_the_nearest_model(
    registry: Registry, made: Stages
) -> None:
    registry.register("qwen3", **made())
    registry.register("qwen", **made(1))
    for name, meant in {
        "qwen3:9": "qwen3:1",
        "qwen:3": "qwen:1",
        "qwem3": "qwen3",
        "nanoo": "nano",
    }.items():
        with pytest.raises(ModelError, match=f"Did you mean '{meant}'"):
            registry.base(name)


def test_an_unknown_name_in_an_empty_registry(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="There is no model 'x'"):
        registry.get("x")
    assert not registry.root.exists()  # looking leaves nothing behind


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc", "/etc", "a:b", "a b", "-x", "x" * 97, "a\n", "é", "nano"]
)
def test_names_that_cannot_be_used(registry: Registry, made: Stages, name: str) -> None:
    with pytest.raises(RegistryError):
        registry.register(name, **made())


def test_a_name_never_becomes_a_path(registry: Registry, made: Stages) -> None:
    card = registry.register("a/../../b", **made())
    assert registry.folder(card).parent == registry.root
    assert registry.folder(card).name.isalnum()


@pytest.mark.parametrize("name", ["weights.bin", "x.pt", "x.pkl", "modeling.py", "evil", "x.so"])
def test_pickles_and_code_are_refused(registry: Registry, made: Stages, name: str) -> None:
    parts = made()
    (parts["run"] / "model" / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeModelError, match=name):
        registry.register("mine", **parts)
    assert registry.list() == [] or all(card.kind == "base" for card in registry.list())


def test_a_link_out_of_the_model_folder_is_refused(
    registry: Registry, made: Stages, tmp_path: Path
) -> None:
    parts = made()
    (tmp_path / "secret.txt").write_text("secret")
    (parts["run"] / "model" / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UnsafeModelError, match=r"notes\.txt"):
        registry.register("mine", **parts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "card.json").write_text("{"),
        lambda folder: (folder / "card.json").write_text("[]"),
        lambda folder: (folder / "card.json").write_text("{}"),
        lambda folder: (folder / "card.json").unlink(),
        lambda folder: truncate(folder / "model" / "adapter_model.safetensors"),
        lambda folder: (folder / "model" / "adapter_model.safetensors").unlink(),
        lambda folder: (folder / "model" / "adapter_config.json").write_text("{"),
        lambda folder: (folder / "model" / "payload.bin").write_bytes(b"\x80"),
    ],
)
def test_a_damaged_model_hides_no_other(registry: Registry, made: Stages, damage: object) -> None:
    registry.register("good", **made(1))
    bad = registry.register("bad", **made(2))
    damage(registry.folder(bad))  # type: ignore[operator]
    assert [card.id for card in registry.list() if card.kind != "base"] == ["good:1"]
    assert len(registry.problems()) == 1
    with pytest.raises((ModelError, RegistryError), match="bad"):
        registry.get("bad")


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()  # the run shares the file
    file.write_bytes(content[:-2])


def test_a_damaged_model_is_said_to_be_damaged(registry: Registry, made: Stages) -> None:
    card = registry.register("bad", **made())
    truncate(registry.folder(card) / "model" / "adapter_model.safetensors")
    for ref in ("bad", "bad:1"):
        with pytest.raises(ModelError, match="bad:1 is damaged"):
            registry.get(ref)


def test_registering_a_damaged_model_again_restores_it(registry: Registry, made: Stages) -> None:
    card = registry.register("mine", **made())
    truncate(registry.folder(card) / "model" / "adapter_model.safetensors")
    assert registry.register("mine", **made()) == card
    assert registry.get("mine") == card


def test_a_card_in_another_models_folder_is_damage(registry: Registry, made: Stages) -> None:
    one, two = registry.register("one", **made(1)), registry.register("two", **made(2))
    forged = (registry.folder(one) / "card.json").read_text()
    (registry.folder(two) / "card.json").write_text(forged)
    assert [card.id for card in registry.list() if card.kind != "base"] == ["one:1"]
    assert "belongs to another model" in registry.problems()[registry.folder(two).name].message


def test_removed_numbers_are_not_given_again(registry: Registry, made: Stages) -> None:
    registry.register("mine", **made(1))
    second = registry.register("mine", **made(2))
    registry.remove("mine:2")
    assert not registry.folder(second).exists()
    assert registry.get("mine").id == "mine:1"
    assert registry.register("mine", **made(3)).id == "mine:3"


def test_a_damaged_model_can_be_removed(registry: Registry, made: Stages) -> None:
    card = registry.register("bad", **made())
    (registry.folder(card) / "card.json").write_text("{")
    registry.remove(registry.folder(card).name)
    assert registry.problems() == {}


@pytest.mark.parametrize("ref", ["mine", "mine:7", "someone/base", ".lock", "../stages"])
def test_what_cannot_be_removed(registry: Registry, made: Stages, ref: str) -> None:
    registry.register("mine", **made())
    with pytest.raises(RegistryError, match="no model"):
        registry.remove(ref)
    assert registry.get("mine").id == "mine:1"


def test_the_base_of_another_model_stays_where_it_is(registry: Registry, made: Stages) -> None:
    whole = registry.register("whole", **made())
    on_it = made(1)
    on_it["base"] = replace(on_it["base"], name=str((registry.folder(whole) / "model").resolve()))
    registry.register("thin", **on_it)
    for work in (
        lambda: registry.remove("whole:1"),
        lambda: begin_rename(registry, "whole", "other", "mdl_1"),
    ):
        with pytest.raises(ConflictError, match="the base of 1 other version"):
            work()
    with pytest.raises(ConflictError, match="It is the base of thin:1, which cannot"):
        registry.remove("whole:1", name_others=True)
    # A later version of the same name counts for a rename, and goes along with a removal.
    folders = [registry.folder(whole), registry.folder(registry.get("thin"))]
    registry.refuse_what_is_built_on(folders, but=folders)
    assert registry.get("whole") == whole
    registry.remove("thin:1")
    registry.remove("whole:1")
    assert not [card for card in registry.list() if card.kind != "base"]


def test_the_base_of_a_model_is_listed(registry: Registry, made: Stages) -> None:
    registry.register("mine", **made())
    base = registry.get("someone/base")
    assert (base.kind, base.base_digest) == ("base", "d" * 64)
    with pytest.raises(RegistryError, match="is a base"):
        registry.promote("someone/base")


def test_an_evaluation_without_a_verdict_is_refused(registry: Registry, made: Stages) -> None:
    parts = made()
    (parts["evaluation"] / "scorecard.json").write_text("{}")
    with pytest.raises(RegistryError, match="no verdict"):
        registry.register("mine", **parts)
    assert open_artifact(parts["run"].path)  # the run itself is untouched


def test_a_registry_that_cannot_be_written(tmp_path: Path, made: Stages) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be written"):
        Registry(tmp_path / "file").register("mine", **made())
