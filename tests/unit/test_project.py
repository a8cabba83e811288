"""codetune.yaml: every option typed, unknown ones refused with the nearest known one."""

import re
from pathlib import Path

import pytest

from codetune.cli.init import explain
from codetune.dataset.config import MixedSet
from codetune.errors import ConfigError
from codetune.project import PRESETS, ProjectConfig, load_project
from codetune.serving.config import EngineOptions


def write(folder: Path, text: str) -> Path:
    file = folder / "codetune.yaml"
    file.write_text(text)
    return file


def test_a_typo_is_refused_and_the_nearest_option_named(tmp_path: Path) -> None:
    file = write(tmp_path, "training:\n  epoch: 3\n")
    with pytest.raises(ConfigError, match=r"unknown option 'training\.epoch'") as caught:
        load_project(file)
    assert "Did you mean 'epochs'?" in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: many}", "option 'training.epochs' cannot be 'many'"),
        ("- a list", "expected options"),
        ("training: [", "is not valid YAML"),
        ("training: 3", "option 'training' cannot be 3"),
        ("name: 2024-13-45", "is not valid YAML: month must be in"),
        ("name: [\nbase: x", r'in "codetune\.yaml", line'),
        (
            "training: {epochs: 3}\nbase: nano\ntraining: {rank: 4}",
            r"the key 'training' is there twice\s+in \"codetune\.yaml\", line 3",
        ),
        ("training: {epochs: 3, rank: 4, epochs: 2}", "the key 'epochs' is there twice"),
    ],
)
def test_a_wrong_file_gets_one_clear_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_project(write(tmp_path, text))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.seed=99999999999999999999999", "less than"),
        ("training.alpha=1e300", "less than or equal to 1000000"),
        ("training.batch_tokens=100000000000000000000", "less than or equal to"),
        ("training.micro_batch_tokens=100000000000000000000", "less than or equal to"),
        ("training.window=100000000000000000000", "less than or equal to"),
        ("training.target_modules=[]", "at least 1 item"),
        ("training.max_steps=true", "a number, not true or false"),
        ("training.epochs=false", "a number, not true or false"),
        ("search.epochs=[true, 2]", "a number, not true or false"),
        ("sources.cutoff=true", "a number, not true or false"),
        ("dataset.use_fim=maybe", "valid boolean.*, or input should be 'auto'"),
        ("training.target_modules=q_proj", r"tuple.\n  Write a list: \[q_proj\]"),
    ],
)
def test_a_value_that_cannot_be_followed_is_refused(setting: str, message: str) -> None:
    option = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"option '{option}' cannot be .*{message}"):
        load_project(None, {}, [setting])


def test_switches_are_true_or_false(tmp_path: Path) -> None:
    text = "training: {rslora: false, recover: true}\ndataset: {use_fim: true}\n"
    config = load_project(write(tmp_path, text))
    assert (config.training.rslora, config.training.recover, config.dataset.use_fim) == (
        False,
        True,
        True,
    )


def test_a_mapping_may_be_merged_into_others(tmp_path: Path) -> None:
    text = "search: &d {seed: 1}\ndataset: {<<: *d, seed: 2}\n"
    config = load_project(write(tmp_path, text))
    assert (config.search.seed, config.dataset.seed) == (1, 2)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="codetune init"):
        load_project(tmp_path / "none.yaml")


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "base: other\ntraining: {epochs: 5, method: full}\n")
    config = load_project(file, {"base": "nano", "training.method": None}, ["training.epochs=2"])
    assert (config.base, config.training.method, config.training.epochs) == ("nano", "full", 2)


def test_set_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        load_project(None, {}, ["training.epochs"])


@pytest.mark.parametrize(
    "line", ["sources.include=*.py", "sources.include=[*.js]", "name=@x", "name=2024-13-45"]
)
def test_a_setting_that_is_no_yaml_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match=r"--set .*: the value is not valid YAML") as caught:
        load_project(None, {}, [line])
    assert line in str(caught.value)


def test_the_written_file_is_valid_and_changes_nothing(tmp_path: Path) -> None:
    text = explain(ProjectConfig)
    assert load_project(write(tmp_path, text)) == ProjectConfig()


def test_every_written_default_is_the_default(tmp_path: Path) -> None:
    """Uncommenting every option gives the same configuration: the file tells the truth."""
    text = explain(ProjectConfig)
    uncommented, count = re.subn(r"(?m)^( *)#(?=\w)", r"\1", text)
    assert count > 30
    assert load_project(write(tmp_path, uncommented)) == ProjectConfig()


def test_the_written_file_names_the_keys_of_what_is_listed() -> None:
    text = explain(ProjectConfig)
    for one, default in ((MixedSet, "needed"), (EngineOptions, "openai")):
        for name in one.model_fields:
            assert re.search(rf"(?m)^  #   {name} \(", text), name
        assert f"({default}): " in text


def test_every_option_is_documented() -> None:
    def undocumented(options: type) -> list[str]:
        missing = []
        for name, field in options.model_fields.items():
            if not field.description:
                missing.append(f"{options.__name__}.{name}")
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                missing += undocumented(field.annotation)
        return missing

    assert undocumented(ProjectConfig) == []


def test_a_preset_stands_below_everything_else(tmp_path: Path) -> None:
    usual = ProjectConfig()
    config = load_project(None, {"preset": "continued-pretraining"})
    assert config.training.method == "full"
    assert config.dataset.use_fim is config.dataset.use_sft is False
    assert config.training.learning_rate_scale < usual.training.learning_rate_scale
    assert config.training.warmup > usual.training.warmup
    assert config.dataset.replay_share == usual.dataset.replay_share > 0
    said = ProjectConfig.model_fields["preset"].description
    assert said
    assert "general code replayed as by default" in said
    assert config.with_values({"training.epochs": 2}, "test").training.method == "full"

    file = write(tmp_path, "preset: continued-pretraining\ntraining: {warmup: 0.2}\ndataset:\n")
    config = load_project(file, {}, ["training.method=lora"])
    assert (config.training.warmup, config.training.method) == (0.2, "lora")
    assert config.dataset.use_fim is False
    with pytest.raises(ConfigError, match="option 'preset' cannot be 'pretraining'"):
        load_project(None, {"preset": "pretraining"})


def test_the_command_line_offers_every_preset() -> None:
    from codetune.cli.options import PRESETS as OFFERED

    assert set(OFFERED) == set(PRESETS)


def test_the_page_on_tuning_tells_the_truth() -> None:
    import yaml

    page = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert blocks[0] == PRESETS["continued-pretraining"]
    defaults = ProjectConfig().model_dump()
    for section, values in blocks[1].items():
        for name, value in values.items():
            assert defaults[section][name] == value, name
