"""Which options of a project are varied, and on what its trials are compared."""

from __future__ import annotations

from typing import Any

import pytest

from codetune import trials
from codetune.models.load import BaseModel, load_model, resolve_base
from codetune.project import ProjectConfig
from codetune.search.space import EPOCHS, FIM_RATE, LEARNING_RATE, RANK, REPLAY
from codetune.training.methods import METHODS

SET = {"name": "docs", "path": "docs.jsonl", "share": 0.2}


@pytest.fixture(scope="module")
def nano() -> BaseModel:
    return resolve_base("nano")


def config(**sections: Any) -> ProjectConfig:
    return ProjectConfig.load(sections, "test")


def test_the_rate_as_given_is_the_one_that_the_run_takes(nano: BaseModel) -> None:
    model = load_model(nano.path)
    count = sum(weight.numel() for weight in model.parameters())
    assert trials.parameters_of(nano) == count
    given = trials.given(config(), nano)
    assert given[LEARNING_RATE] == METHODS["lora"].learning_rate_for(count)
    scaled = config(training={"learning_rate_scale": 0.5})
    assert trials.given(scaled, nano)[LEARNING_RATE] == given[LEARNING_RATE] / 2
    named = config(training={"learning_rate": 2e-4})
    assert trials.given(named, nano)[LEARNING_RATE] == 2e-4


def test_options_without_effect_are_not_varied(nano: BaseModel) -> None:
    everything = {LEARNING_RATE, RANK, EPOCHS, FIM_RATE, REPLAY}

    def varied(**sections: Any) -> set[str]:
        return set(trials.given(config(**sections), nano))

    assert varied() == everything
    assert varied(training={"method": "full"}) == everything - {RANK}
    assert varied(training={"max_steps": 9}) == everything - {EPOCHS}
    assert varied(dataset={"use_fim": False}) == everything - {FIM_RATE}
    assert varied(dataset={"use_ntp": False}) == everything - {FIM_RATE}
    assert varied(dataset={"replay_share": 0}) == everything - {REPLAY}
    # Less replayed code would always win where nothing weighs what is forgotten.
    assert varied(training={"forgetting_limit": None}) == everything - {REPLAY}
    assert varied(training={"method": "dora"}) == everything - {REPLAY}
    assert varied(dataset={"mix": [SET]}) == everything | {"dataset.mix.0.share"}


def test_the_yardstick_does_not_depend_on_what_is_tried(nano: BaseModel) -> None:
    project = config(dataset={"mix": [SET], "fim_rate": 0.4}, search={"trials": 4})
    space = trials.make_space(project, nano)
    yardstick = trials.yardstick_config(project, space).dataset
    assert yardstick.fim_rate == 0.4
    assert yardstick.replay_share == 0.45  # the largest: what resembles replayed code is out
    assert yardstick.mix[0].share == 0.1  # the smallest: what is held out, is so in every trial
    assert yardstick == trials.yardstick_config(project, space[::-1]).dataset


def test_a_trial_differs_in_its_options_alone_and_does_not_search(nano: BaseModel) -> None:
    project = config(search={"trials": 4})
    same = trials.trial_config(project, {})
    assert (same.dataset, same.training) == (project.dataset, project.training)
    assert same.search.trials == 0
    other = trials.trial_config(project, {RANK: 32, "dataset.fim_rate": 0.25})
    assert (other.training.rank, other.dataset.fim_rate) == (32, 0.25)
    assert other.training.model_copy(update={"rank": None}) == project.training
