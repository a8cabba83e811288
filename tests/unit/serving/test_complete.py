"""Queries become prompts that fit, for the model that was meant."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from codetune.errors import (
    BadRequestError,
    ModelError,
    RegistryError,
    UnservableModelError,
)
from codetune.models.load import BaseModel
from codetune.models.prompts import ContextFile, Renderer
from codetune.models.prompts.templates import TemplateName
from codetune.registry.cards import Registry
from codetune.registry.naming import begin_rename, settle, under_way
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Job, Piece, Servable
from codetune.serving.engines.local import LocalEngine
from codetune.serving.line_ends import WindowsGeneration, as_asked
from codetune.serving.query import Chat, Fim, Query, Text
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, make_full, register


class Recorder:
    """An engine that only keeps the jobs it is given."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, jobs: Sequence[Job]) -> Sequence[Any]:
        self.jobs += jobs
        return []

    def load(self, model: Servable) -> None: ...
    def close(self) -> None: ...
    def busy(self) -> dict[str, int]:
        return {}

    def name_of(self, model: Servable) -> str:
        return "recorder"


@pytest.fixture(scope="module")
def home(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, home = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("home")
    register(home, "shop", base, make_adapter(base, made / "one", seed=1))
    register(home, "shop", base, make_adapter(base, made / "two", seed=2), promoted=False)
    register(home, "other", base, make_adapter(base, made / "three", seed=3), promoted=False)
    return home


@pytest.fixture
def completer(home: Path, base: BaseModel) -> Completer:
    options = ServingOptions(base=str(base.path))
    return Completer(Recorder(), Catalog(Registry(home), options.base), options)


def jobs(completer: Completer, query: Query) -> list[Job]:
    asyncio.run(completer.start(query))
    engine = completer.engine
    assert isinstance(engine, Recorder)
    return engine.jobs


def test_names_mean_the_newest_promoted_version(completer: Completer) -> None:
    def means(name: str | None) -> str:
        return completer.catalog.resolve(name).id

    assert means("shop") == "shop:1"
    assert means("shop:2") == "shop:2"
    assert means("other") == "other:1", "none is promoted: the newest"
    assert means("tiny") == "tiny"
    assert means(None) == "shop:1", "what is asked without a name"
    with pytest.raises(RegistryError, match="Did you mean 'shop'"):
        means("shopp")
    for trick in ("../shop", "shop:9", "", "shop:1/../other"):
        with pytest.raises(RegistryError):
            means(trick)


def test_without_a_tuned_model_the_base_is_the_default(base: BaseModel, tmp_path: Path) -> None:
    catalog = Catalog(Registry(tmp_path), str(base.path))
    assert catalog.resolve(None).kind == "base"


def test_what_was_registered_this_moment_can_be_asked_for(base: BaseModel, tmp_path: Path) -> None:
    catalog = Catalog(Registry(tmp_path / "home"), str(base.path))
    assert catalog.resolve(None).kind == "base"
    register(tmp_path / "home", "shop", base, make_adapter(base, tmp_path / "shop"))
    assert catalog.resolve(None).id == "shop:1"
    register(tmp_path / "home", "till", base, make_adapter(base, tmp_path / "till", seed=2))
    assert catalog.resolve("till").id == "till:1"


def test_an_adapter_of_a_base_that_has_changed_is_refused(base: BaseModel, tmp_path: Path) -> None:
    own = base_of(make_base(tmp_path / "own"))
    register(tmp_path / "home", "mine", own, make_adapter(own, tmp_path / "adapter"))
    (own.path / "config.json").write_text((own.path / "config.json").read_text() + "\n")
    catalog = Catalog(Registry(tmp_path / "home"), str(base.path))
    with pytest.raises(UnservableModelError, match="another 'own'"):
        catalog.resolve("mine")


def test_fim_is_rendered_as_in_training(completer: Completer) -> None:
    renderer = completer.voice(completer.catalog.resolve("tiny")).renderer
    query = Query([Fim("a = ", "\nb", path="x.py", repo="r")], model="tiny", max_tokens=9)
    (job,) = jobs(completer, query)
    assert job.prompt == renderer.fim_prompt("a = ", "\nb", repo="r", path="x.py")
    assert job.sampling.stop_ids == renderer.fim_stops
    assert job.sampling.max_tokens == 9


def test_a_tuned_model_knows_its_own_repository(completer: Completer) -> None:
    (tuned,) = jobs(completer, Query([Fim("a", "b", path="x.py")], model="shop"))
    renderer = completer.voice(completer.catalog.resolve("shop")).renderer
    expected = renderer.fim_prompt("a", "b", repo="github.com/team/shop", path="x.py")
    assert tuned.prompt == expected


def test_what_is_begun_stands_after_the_middle_mark(completer: Completer) -> None:
    renderer = completer.voice(completer.catalog.resolve("tiny")).renderer
    (job,) = jobs(completer, Query([Fim("a\n", "\nb", begun="x = ")], model="tiny"))
    assert job.prompt == renderer.fim_prompt("a\n", "\nb") + renderer.plain("x = ")
    long = jobs(completer, Query([Fim("a\n", "\nb", begun="x" * 2000)], model="tiny"))[-1]
    assert renderer.fim is not None
    assert long.prompt[-1] == renderer.fim.middle, "a line without end is part of the prefix"
    assert len(long.prompt) <= 1024 // 2


@pytest.mark.parametrize("lines", [1, 2000])
def test_other_files_fill_what_the_file_at_the_cursor_leaves(
    completer: Completer, lines: int
) -> None:
    files = (ContextFile("near = 1\n", "near.py"), ContextFile("far = 2\n" * 500, "far.py"))
    prompt = Fim("x = 1\n" * lines, "y = 2\n" * lines, path="here.py", context=files)
    (job,) = jobs(completer, Query([prompt], model="tiny", max_tokens=100))
    renderer = completer.voice(completer.catalog.resolve("tiny")).renderer
    text = renderer.decode(job.prompt)
    assert text.startswith("far.py\nfar = 2")
    assert text.index("near = 1") < text.index("here.py") < text.index("x = 1")
    assert 850 < len(job.prompt) <= 1024 - 100
    assert text.index("here.py") < (300 if lines > 1 else 920), "a quarter, or what is left"


def test_a_long_file_leaves_room_for_the_answer(completer: Completer) -> None:
    long = Fim("x = 1\n" * 4000, "y = 2\n" * 4000)
    (job,) = jobs(completer, Query([long], model="tiny", max_tokens=100))
    assert 850 < len(job.prompt) <= 1024 - 100
    query = Query([long], model="tiny", max_tokens=5000)
    job = jobs(completer, query)[-1]
    assert len(job.prompt) + job.sampling.max_tokens <= 1024
    assert job.sampling.max_tokens == 512, "at most half of the window"


def test_a_prompt_that_is_too_long_is_refused_with_its_size(completer: Completer) -> None:
    chat = Chat([{"role": "user", "content": "x" * 2000}])
    for prompt, param in ((Text("y" * 1024), "prompt"), (chat, "messages")):
        with pytest.raises(BadRequestError, match=r"\d{4} tokens.*window is 1024") as caught:
            jobs(completer, Query([prompt], model="tiny"))
        assert caught.value.param == param
    (job,) = jobs(completer, Query([Text("y" * 1000)], model="tiny", max_tokens=500))
    assert job.sampling.max_tokens == 24, "what is left"


def test_what_a_base_cannot_do_is_a_bad_request(
    tmp_path: Path,
) -> None:
    import json

    folder = make_base(tmp_path / "plain")
    spec = json.loads((folder / "tokenizer.json").read_text())
    for token in spec["added_tokens"]:
        token["content"] = token["content"].replace("fim", "foo")
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    options = ServingOptions(base=str(folder))
    completer = Completer(Recorder(), Catalog(Registry(tmp_path), options.base), options)
    with pytest.raises(BadRequestError, match="no fill-in-the-middle tokens"):
        jobs(completer, Query([Fim("a", "b")]))


def test_a_broken_tokenizer_is_told_without_paths(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "bad")
    (folder / "tokenizer.json").write_text("{")
    options = ServingOptions(base=str(folder))
    completer = Completer(Recorder(), Catalog(Registry(tmp_path), options.base), options)
    with pytest.raises((UnservableModelError, ModelError)) as caught:
        jobs(completer, Query([Text("x")]))
    assert str(tmp_path) not in caught.value.message


def test_n_answers_have_seeds_of_their_own(completer: Completer) -> None:
    made = jobs(completer, Query([Text("a"), Text("b")], model="tiny", n=2, seed=5))
    assert [job.sampling.seed for job in made] == [5, 6, 5, 6]
    assert [job.sampling.seed for job in jobs(completer, Query([Text("a")], n=2))[4:]] == [None] * 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**7}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"stops": ["x"] * 65}, "stop"),
        ({"stops": ["x" * 257]}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompts": [Text("x")] * 129}, "prompt"),
        ({"prompts": []}, "prompt"),
    ],
)
def test_what_no_model_can_answer_is_refused(change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        Query(**({"prompts": [Text("x")]} | change)).check()
    assert caught.value.param == param


def test_a_new_model_is_seen_while_serving(base: BaseModel, tmp_path: Path) -> None:
    catalog = Catalog(Registry(tmp_path / "home"), str(base.path))
    assert [entry.id for entry in catalog.listed() if entry.id != "nano"] == ["tiny"]
    register(tmp_path / "home", "new", base, make_adapter(base, tmp_path / "new"))
    catalog._read_at -= 10
    assert "new:1" in [entry.id for entry in catalog.listed()]


@pytest.mark.parametrize("make", [make_adapter, make_full])
def test_a_name_that_others_had_before_means_the_model_that_has_it(
    make: Callable[..., Path], base: BaseModel, tmp_path: Path, engines: Callable[..., LocalEngine]
) -> None:
    """Renamed, the models change places: the folder's name is the one that was loaded."""
    registry = Registry(tmp_path / "home")
    for seed, (name, template) in enumerate({"shop": "alpaca", "shop-new": "plain"}.items(), 8):
        folder = make(base, tmp_path / name, seed=seed)
        learned = Renderer.from_folder(base.path).with_template(cast("TemplateName", template))
        (folder / "chat_template.jinja").write_text(learned.template)
        register(tmp_path / "home", name, base, folder)
    options = ServingOptions(base=str(base.path))
    completer = Completer(engines(), Catalog(registry, options.base), options)

    def answer(name: str) -> tuple[str, str]:
        completer.catalog._read_at -= 10
        model = completer.catalog.resolve(name)
        query = Query([Text("def f(x):")], model=name, max_tokens=16, temperature=0.0)

        async def ask() -> str:
            answers = await completer.start(query)
            return "".join([piece.text async for piece in answers.generations[0]])

        text = asyncio.run(ask())
        assert str(model.folder) in completer.engine.loaded()
        return text, completer.voice(model).renderer.template

    old, new = answer("shop:1"), answer("shop-new:1")
    assert old[0] != new[0]
    assert old[1] != new[1]
    for name, other in (("shop", "shop-old"), ("shop-new", "shop")):
        begin_rename(registry, name, other, "row")
        settle(registry, under_way(registry)[0], other)
    assert answer("shop:1") == new
    assert answer("shop-old:1") == old


def test_nobody_waits_for_somebody_elses_base(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop asks for models that are known while another one is being downloaded."""
    catalog = Catalog(Registry(tmp_path / "home"), str(base.path))
    known = catalog.resolve(None)
    begun, over = threading.Event(), threading.Event()

    def slow(name: str) -> BaseModel:
        begun.set()
        over.wait(10)
        return base

    monkeypatch.setattr("codetune.serving.catalog.resolve_base", slow)
    with ThreadPoolExecutor(2) as threads:
        waits = threads.submit(catalog._base, "slow/base")
        try:
            assert begun.wait(5)
            assert threads.submit(catalog.resolve, None).result(timeout=1) == known
        finally:
            over.set()
        assert waits.result() is base


def test_asked_through_the_real_engine(
    completer: Completer, engines: Callable[..., LocalEngine]
) -> None:
    completer.engine = engines()

    async def ask() -> str:
        answers = await completer.start(
            Query([Fim("a", "b")], model="shop", max_tokens=4, temperature=0)
        )
        return "".join([piece.text async for piece in answers.generations[0]])

    assert asyncio.run(ask()) == asyncio.run(ask())


def test_windows_line_ends_are_read_as_learned_and_given_back(completer: Completer) -> None:
    file = ContextFile("x\ny\n", "b.py")
    plain: list[Fim | Text] = [
        Fim("a\n", "\nb", begun="c\n", path="a.py", context=[file]),
        Fim("a\n", "b\n"),
        Text("a\nb\n"),
    ]
    windows: list[Fim | Text] = [
        Fim(
            "a\r\n",
            "\r\nb",
            begun="c\r\n",
            path="a.py",
            context=[ContextFile("x\r\ny\r\n", "b.py")],
        ),
        Fim("a\n", "b\r\n"),
        Text("a\r\nb\r\n"),
    ]
    jobs(completer, Query(plain, model="tiny", stops=["\n\n"]))
    asked = jobs(completer, Query(windows, model="tiny", stops=["\r\n\n"]))
    for one, other in zip(asked[:3], asked[3:], strict=True):
        assert one.prompt == other.prompt
        assert one.sampling == other.sampling
    ids = Query([Text([13, 10])], model="tiny")
    assert list(jobs(completer, ids)[-1].prompt) == [13, 10], "they are nobody's to change"


@pytest.mark.parametrize(
    ("prompt", "windows"),
    [
        (Fim("a\r\nb\nc", "d\r\n"), False),
        (Fim("a\nb\r\nc", "d\n"), True),
        (Fim("a", "b\r\nc\n", begun="d"), True),
        (Fim("a", "b"), False),
        (Text("a\r\nb\nc"), False),
        (Text([13, 10]), False),
    ],
)
def test_the_line_end_nearest_to_the_cursor_counts(prompt: Fim | Text, windows: bool) -> None:
    written: Any = object()
    (found,) = as_asked(Query([prompt]), [written])
    assert isinstance(found, WindowsGeneration) == windows


@pytest.mark.parametrize("stream", [True, False])
def test_the_answer_to_a_windows_file_has_its_line_ends(
    stream: bool, completer: Completer, engines: Callable[..., LocalEngine]
) -> None:
    """Its text alone is another one: it stops where the other does, and has as many tokens."""
    completer.engine = engines()
    # With this seed the answers have line breaks.
    rules: dict[str, Any] = {"model": "shop", "max_tokens": 100, "seed": 35, "temperature": 9.0}

    def answers(ends: str, **more: Any) -> list[tuple[str, int, list[str]]]:
        prompts = [Text(f"a{ends}b"), Fim(f"a{ends}", "b"), Text("a\nb")]
        query = Query(prompts, **rules, stream=stream, logprobs=1, **more)

        async def ask() -> list[list[Piece]]:
            generations = (await completer.start(query)).generations
            return [[piece async for piece in generation] for generation in generations]

        return [
            (
                "".join(piece.text for piece in pieces),
                next(piece.finish.tokens for piece in pieces if piece.finish),
                [score.text for piece in pieces for score in piece.scores],
            )
            for pieces in asyncio.run(ask())
        ]

    plain, windows = answers("\n"), answers("\r\n")
    assert any("\n" in text for text, *_ in plain[:2])
    assert plain[2] == windows[2], "another prompt's line ends are its own"
    for (text, tokens, scores), (other, count, scored) in zip(plain[:2], windows[:2], strict=True):
        assert (other, count) == (re.sub(r"(?<!\r)\n", "\r\n", text), tokens)
        assert scored == [score.replace("\n", "\r\n") for score in scores]
    stopped = answers("\r\n", stops=["\n"])
    assert [text for text, *_ in stopped] == [text.partition("\n")[0] for text, *_ in plain]


def test_scores_hold_the_bytes_of_tokens_that_are_parts_of_characters(
    completer: Completer, engines: Callable[..., LocalEngine]
) -> None:
    """A token of the tiny base is a byte, of whatever character."""
    completer.engine = engines()
    query = Query([Text("x")], model="shop", max_tokens=60, seed=35, temperature=9.0, logprobs=1)

    async def ask() -> list[str]:
        (generation,) = (await completer.start(query)).generations
        return [score.text async for piece in generation for score in piece.scores if score.text]

    written = [text.encode(errors="surrogateescape") for text in asyncio.run(ask())]
    assert {len(one) for one in written} == {1}
    assert any(one > b"\x7f" for one in written)


def test_line_ends_that_the_model_writes_itself_stay_what_they_are() -> None:
    class Written:
        generated, first, prompt_tokens = 3, None, None

        async def __aiter__(self) -> Any:
            for text in ("a\r", "\nb\n", "\n", "\r", "", "\nc\r\n"):
                yield Piece(text)

        def cancel(self) -> None: ...

    async def read() -> str:
        return "".join([piece.text async for piece in WindowsGeneration(Written())])

    assert asyncio.run(read()) == "a\r\nb\r\n\r\n\r\nc\r\n"


def test_a_chat_is_rendered_as_the_model_learned_it(base: BaseModel, tmp_path: Path) -> None:
    base_renderer = Renderer.from_folder(base.path)
    learned = base_renderer.with_template("alpaca")
    folder = make_adapter(base, tmp_path / "adapter")
    (folder / "chat_template.jinja").write_text(learned.template)
    register(tmp_path / "home", "shop", base, folder)
    options = ServingOptions(base=str(base.path))
    catalog = Catalog(Registry(tmp_path / "home"), options.base)
    completer = Completer(Recorder(), catalog, options)
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "a + b"},
        {"role": "user", "content": "Now three."},
    ]
    rendered = {
        name: list(jobs(completer, Query([Chat(messages)], model=name))[-1].prompt)
        for name in ("shop", "tiny")
    }
    assert rendered["shop"] == learned.chat(messages)
    assert rendered["tiny"] == base_renderer.chat(messages) != rendered["shop"]
    # The earlier answer has the ids with which it was learned.
    ids, loss = learned.conversation(messages[:2])
    assert rendered["shop"][: len(ids)] == ids.tolist()
    assert loss.any()


@pytest.mark.parametrize(
    ("template", "turn"),
    [
        ("plain", ("\nassistant:",)),
        ("alpaca", ("\n### Response:\n",)),
        ("chatml", ()),  # a control token opens its turns
    ],
)
def test_an_answer_ends_where_another_one_would_begin(
    base: BaseModel, tmp_path: Path, template: TemplateName, turn: tuple[str, ...]
) -> None:
    folder = make_adapter(base, tmp_path / "adapter")
    learned = Renderer.from_folder(base.path).with_template(template)
    (folder / "chat_template.jinja").write_text(learned.template)
    register(tmp_path / "home", "shop", base, folder)
    options = ServingOptions(base=str(base.path))
    completer = Completer(Recorder(), Catalog(Registry(tmp_path / "home"), options.base), options)
    chat = Chat([{"role": "user", "content": "Add."}])
    asked = jobs(completer, Query([chat, Text("x")], model="shop", stops=["END"]))
    assert [job.sampling.stops for job in asked] == [("END", *turn), ("END",)]
