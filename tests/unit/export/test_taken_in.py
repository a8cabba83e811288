"""Exports as others take them in: an Ollama server, and a hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from codetune.cli import export as commands
from codetune.cli.main import cli
from codetune.delivery import (
    load_file_into_ollama,
    load_into_ollama,
    push_export,
)
from codetune.errors import ConfigError, ExportError, UnsafeModelError
from codetune.export.config import Precision, Quantisation
from codetune.export.export import Exported
from codetune.export.hub import Destination
from codetune.export.modelfile import Spec
from codetune.export.ollama import Server, check_name
from codetune.export.parity import ROUNDING
from codetune.export.reading import read_model
from codetune.progress import Progress, Quiet
from codetune.registry.cards import Registry
from tests.unit.export.servers import Hub, Ollama

# huggingface_hub 2.4 gives its HTTP library bytes in a way that this one no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


class Said(Quiet):
    """Keeps the lines that stay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_model_of_ollama(registry: Registry, gguf_export: Exported, ollama: Ollama) -> None:
    """Bytes under their digest, the template and the stops; what is there is not sent twice."""
    for expected in (
        ["HEAD /api/blobs/sha256", "POST /api/blobs/sha256", "POST /api/create", "POST /api/show"],
        ["HEAD /api/blobs/sha256", "POST /api/create", "POST /api/show"],
    ):
        ollama.calls.clear()
        made = load_into_ollama(registry, gguf_export, Server(ollama.url), "shop", Progress())
        assert ollama.calls == expected
    assert made == {
        "model": "shop:1",
        "ollama": "shop",
        "url": ollama.url,
        "file": "shop-f16.gguf",
    }
    data = (gguf_export.folder / "shop-f16.gguf").read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert ollama.blobs[digest] == data
    created = ollama.models["shop"]
    assert created["files"] == {"shop-f16.gguf": digest}
    assert created["parameters"]["num_ctx"] == 2048
    assert created["parameters"]["stop"][0] == "<|endoftext|>"
    modelfile = (gguf_export.folder / "Modelfile").read_text()
    assert f'TEMPLATE """{created["template"]}"""' in modelfile


def test_what_ollama_refuses_is_said(
    registry: Registry, gguf_export: Exported, ollama: Ollama
) -> None:
    ollama.refuses = "no space left"
    with pytest.raises(ExportError, match="does not create 'shop': no space left"):
        load_into_ollama(registry, gguf_export, Server(ollama.url), "shop", Progress())
    with pytest.raises(ExportError, match="cannot be used") as raised:
        load_into_ollama(registry, gguf_export, Server("http://127.0.0.1:9"), "shop", Progress())
    assert "--url" in raised.value.advice
    for name in ("../shop", "Shop", "a b", "x" * 201, "", "a//b", "-x"):
        with pytest.raises(ConfigError, match="name of a model in Ollama"):
            check_name(name)
    for url in (
        "file:///etc",
        "localhost:1",
        "http://",
        "http://[",
        "http://h:x",
        "http://h:99999",
    ):
        with pytest.raises(ConfigError, match="no address of an Ollama server"):
            Server(url)
    with pytest.raises(ConfigError, match="No key or name"):
        Server("http://me:key@localhost")


def test_a_repository_of_a_hub(folder: Exported, hub: Hub) -> None:
    """Private, in one commit, listed first; a second push leaves no weights of the first."""
    sink = Said()
    destination = Destination("team/shop", hub.url, "hf_right")
    made = push_export(folder, destination, Progress(sink))
    assert made["commit"] == f"{hub.url}/team/shop/commit/{'a' * 40}"
    assert hub.visibility["team/shop"] == "private"
    sent = {path.name: path.read_bytes() for path in folder.folder.iterdir()}
    assert hub.files["team/shop"] == sent
    assert [line.split()[0] for line in sink.lines] == sorted(sent)
    assert hub.calls[0] == "POST /api/repos/create"
    hub.files["team/shop"]["model-00002-of-00002.safetensors"] = b"old"
    push_export(folder, destination, Progress())
    assert hub.files["team/shop"] == sent


def test_what_the_hub_refuses_is_said(folder: Exported, hub: Hub) -> None:
    with pytest.raises(ExportError, match="does not take team/shop") as raised:
        push_export(folder, Destination("team/shop", hub.url, "hf_wrong"), Progress())
    assert "hub.token" in raised.value.advice
    assert "hf_wrong" not in str(raised.value)
    hub.public.add("team/open")
    with pytest.raises(ExportError, match="can be read by everybody"):
        push_export(folder, Destination("team/open", hub.url, "hf_right"), Progress())
    assert hub.files["team/open"] == {}
    push_export(folder, Destination("team/open", hub.url, "hf_right", public=True), Progress())
    assert "model.safetensors" in hub.files["team/open"]


@pytest.mark.parametrize(
    "name", ["shop", "../shop", "a/b/c", "team/../x", "team/-x", "", "a/b.git"]
)
def test_names_that_try_a_path_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="repository of the hub"):
        Destination(name)


@pytest.mark.parametrize(
    "url", ["http://hub.example.com", "https://me:key@x.org", "ftp://localhost", "hub.example.com"]
)
def test_a_token_goes_nowhere_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigError, match="address of a hub"):
        Destination("team/shop", url)


def test_pickles_are_never_uploaded(folder: Exported, hub: Hub) -> None:
    bad = folder.folder / "pytorch_model.bin"
    bad.write_bytes(b"\x80\x04.")
    try:
        with pytest.raises(UnsafeModelError, match="pytorch_model"):
            push_export(folder, Destination("team/shop", hub.url, "hf_right"), Progress())
    finally:
        bad.unlink()
    assert hub.calls == []


def run(home: Path, *arguments: str, code: int = 0) -> dict[str, object]:
    environment = {"CODETUNE_HOME": str(home), "HF_TOKEN": "hf_right"}
    result = CliRunner().invoke(cli, arguments, env=environment)
    assert result.exit_code == code, (result.output, result.exception)
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_the_commands(home: Path, hub: Hub, ollama: Ollama, tmp_path: Path) -> None:
    """Each way of `codetune export`, and `codetune push` without and with sending."""
    out = tmp_path / "new" / "out"
    made = run(home, "export", "shop", "--out", str(out), "--json")
    assert (made["model"], made["folder"]) == ("shop:1", str(out))
    assert (out / "model.safetensors").is_file()
    dry = run(home, "push", "shop", "team/x", "--endpoint", hub.url, "--dry-run", "--json")
    assert "model.safetensors" in str(dry["files"])
    assert hub.calls == []
    ended = run(
        home, "export", "shop", "--format", "ollama", "--url", ollama.url, "--name", "x:q8",
        "--quantize", "q8_0", "--json",
    )  # fmt: skip
    assert ended["ollama"] == "x:q8"
    assert list(ollama.models) == ["x:q8"]
    assert list((home / "cache").iterdir()) == []
    refused = CliRunner().invoke(
        cli,
        ["export", "shop", "--quantize", "q8_0"],
        env={"CODETUNE_HOME": str(home)},
    )
    assert isinstance(refused.exception, ConfigError)
    assert "for format gguf" in str(refused.exception)


def test_a_modelfile_that_is_there_already(
    gguf_export: Exported, ollama: Ollama, tmp_path: Path
) -> None:
    """Our own Modelfile read back is what was written; a GGUF file alone needs none."""
    server = Server(ollama.url)
    load_file_into_ollama(gguf_export.folder / "Modelfile", server, "one", Progress())
    written = (gguf_export.folder / "Modelfile").read_text()
    created = ollama.models["one"]
    assert f'TEMPLATE """{created["template"]}"""' in written
    assert created["parameters"]["stop"][:2] == ["<|endoftext|>", "<|im_end|>"]
    assert created["parameters"]["num_ctx"] == 2048
    file = gguf_export.folder / "shop-f16.gguf"
    load_file_into_ollama(file, server, "two", Progress())
    assert ollama.models["two"].keys() == {"model", "files", "stream"}
    own = tmp_path / "Modelfile"
    own.write_text(f'# mine\nfrom {file}\nSYSTEM "Be brief."\nPARAMETER temperature 0.5\n')
    assert read_model(own) == (file, Spec("", {"temperature": 0.5}, "", "Be brief."))


def test_the_stops_of_a_modelfile_are_texts_and_its_numbers_can_be_sent(
    gguf_export: Exported, tmp_path: Path
) -> None:
    stops = ["true", "007", "1_0", "1e3", " x "]
    lines = [f"FROM {gguf_export.folder / 'shop-f16.gguf'}"]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    large = "9" * 400
    lines += ["PARAMETER temperature nan", "PARAMETER top_p inf", f"PARAMETER seed {large}"]
    (tmp_path / "Modelfile").write_text("\n".join(lines))
    _, spec = read_model(tmp_path / "Modelfile")
    assert spec.parameters == {
        "stop": stops,
        "temperature": "nan",
        "top_p": "inf",
        "seed": int(large),
    }
    json.dumps(spec.parameters, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TEMPLATE x\n", "names no GGUF file"),
        ("FROM llama3\n", "names no GGUF file"),
        ("FROM ./Modelfile\n", "is no GGUF file"),
        ("FROM ./cut.gguf\n", "is no GGUF file"),
        ("FROM ./x\nADAPTER ./y\n", "line 2: ADAPTER"),
        ('FROM ./x\nTEMPLATE """no end\n', "Line 2"),
        ("\x00\x01", "Line 1"),
    ],
)
def test_what_is_no_model_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(text)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 16)
    with pytest.raises(ExportError, match=said):
        read_model(tmp_path / "Modelfile")


def test_the_commands_know_every_option() -> None:
    assert get_args(Quantisation) == commands.QUANTISATIONS
    assert get_args(Precision) == commands.PRECISIONS
    assert set(commands.QUANTISATIONS) | set(commands.PRECISIONS) == {"auto", *ROUNDING}
