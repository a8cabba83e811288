"""What is varied, and values that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codetune.errors import ConfigError, MissingExtraError
from codetune.project import ProjectConfig, load_project
from codetune.search.config import SearchOptions
from codetune.search.space import EPOCHS, FIM_RATE, LEARNING_RATE, RANK, REPLAY, make_space
from tests.unit.search.trial_runs import GIVEN, Runs, searched


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("search.trials=1", "one trial is no search"),
        ("search.trials=-3", "search.trials"),
        ("search.trails=4", "Did you mean 'trials'?"),
        ("search.parameters=[dropout]", "search.parameters.0"),
        ("search.learning_rate=[0.01, 0.001]", "lowest < highest"),
        ("search.learning_rate=[0, 0.001]", "lowest < highest"),
        ("search.rank=[8, 0]", "rank: 0 is not within 1 and 1024"),
        ("search.rank=[]", "search.rank"),
        ("search.fim_rate=[1.5]", "fim_rate: 1.5 is not within 0 and 1"),
        ("search.replay_share=[1.0]", "replay_share: 1.0 is not within 0 and 0.9"),
        ("search.epochs=[0]", "epochs: 0.0 is not within"),
        ("search.reduction=1", "search.reduction"),
        ("search.comparisons=8", "hundredth"),
    ],
)
def test_bad_values_are_named(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(None, {}, [setting])
    assert said in str(caught.value)


def test_given_values_are_always_among_the_tried_ones() -> None:
    options = SearchOptions(learning_rate=(1e-5, 1e-4), rank=(8,), epochs=(1.0,))
    space = {one.key: one for one in make_space(options, GIVEN)}
    assert space[LEARNING_RATE].bounds == (1e-5, 1.5e-3)
    assert space[RANK].choices == (8, 16)
    assert space[EPOCHS].choices == (1.0, 3.0)


def test_only_what_is_asked_for_and_can_be_varied_is() -> None:
    def keys(given: dict[str, float], **options: Any) -> list[str]:
        return [one.key for one in make_space(SearchOptions(**options), given)]

    assert keys(GIVEN) == [LEARNING_RATE, RANK, EPOCHS]
    assert keys({**GIVEN, FIM_RATE: 0.5, REPLAY: 0.3}, parameters=("fim", "mix")) == [
        FIM_RATE,
        REPLAY,
    ]
    assert keys({RANK: 16, EPOCHS: 3.0}, rank=(16,)) == [EPOCHS]
    with pytest.raises(ConfigError, match="nothing to vary: mix"):
        keys(GIVEN, parameters=("mix",))


def test_sets_mixed_in_leave_something_for_the_repository() -> None:
    given = {"dataset.mix.0.share": 0.3, "dataset.mix.1.share": 0.1}
    first, second = make_space(SearchOptions(), given)
    assert first.choices == (0.15, 0.3)  # 0.6 of each could leave nothing
    assert second.choices == (0.05, 0.1, 0.2)
    (weight,) = make_space(SearchOptions(), {"dataset.mix.0.weight": 1.0})
    assert weight.choices == (0.5, 1.0, 2.0)


def test_large_shares_never_add_up_to_everything() -> None:
    space = make_space(SearchOptions(), {"dataset.mix.0.share": 0.7, "dataset.mix.1.share": 0.2})
    assert [one.values for one in space] == [(0.35, 0.7), (0.1, 0.2)]
    assert sum(max(one.values) for one in space) < 0.95


def test_a_value_of_one_element_of_a_list_can_be_set() -> None:
    mix = {"dataset": {"mix": [{"name": "docs", "path": "x.jsonl", "share": 0.1}]}}
    config = ProjectConfig.load(mix, "test").with_values({"dataset.mix.0.share": 0.2}, "test")
    assert config.dataset.mix[0].share == 0.2
    for key in ("dataset.mix.1.share", "dataset.mix.docs.share", "dataset.mix.0"):
        with pytest.raises(ConfigError, match=key):
            config.with_values({key: 0.2}, "test")


def test_a_missing_optuna_is_named_with_its_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r'pip install "codetune\[search\]"'):
        searched(tmp_path, Runs())
    assert not list(tmp_path.iterdir())
