"""/metrics, /ready and usage, on a running server with two users and both databases."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text
from sqlalchemy import text

from codetune.accounts import tokens, users
from codetune.api.app import create_app
from codetune.api.server import Server, listen
from codetune.errors import ModelError
from codetune.serving.config import ServingOptions
from codetune.store.usage import Usage
from tests.accounts import People
from tests.unit.api.served import Served, until
from tests.unit.api.test_routes_access import call, request

SECRET = "correct_horse_battery_staple"
CHAT = [{"role": "user", "content": SECRET}]
THREE = {"max_tokens": 3, "temperature": 0}  # a sampled answer may end sooner
# Every way to have a model work, whole and as a stream where there is one.
ASKS: list[tuple[str, dict[str, Any]]] = [
    ("POST /v1/completions", {"prompt": SECRET, **THREE, "n": 2}),
    ("POST /v1/completions", {"prompt": SECRET, **THREE, "stream": True}),
    ("POST /v1/completions", {"segments": {"prefix": SECRET}}),
    ("POST /v1/chat/completions", {"messages": CHAT, **THREE}),
    ("POST /v1/chat/completions", {"messages": CHAT, **THREE, "stream": True}),
    ("POST /v1/embeddings", {"input": SECRET, "model": "tiny"}),
    ("POST /v1/fim/completions", {"prompt": SECRET, "suffix": "x", **THREE}),
    (
        "POST /infill",
        {"input_prefix": SECRET, "input_suffix": "x", "n_predict": 3, "temperature": 0},
    ),
    ("POST /completion", {"prompt": SECRET, "n_predict": 3, "temperature": 0, "stream": True}),
    (
        "POST /api/generate",
        {"model": "tiny", "prompt": SECRET, "options": {"num_predict": 3, "temperature": 0}},
    ),
    (
        "POST /api/chat",
        {"model": "tiny", "messages": CHAT, "options": {"num_predict": 3, "temperature": 0}},
    ),
    ("POST /api/v1/compare", {"models": ["tiny", "tiny"], "prompt": SECRET, **THREE}),
    ("POST /generate", {"prior_context": SECRET, "proceeding_context": "", "max_decode_length": 3}),
    ("POST /query", {"q": SECRET, "model": "tiny", **THREE}),
]
MODELS = {"POST /api/v1/compare": 2}  # models that one request asks


@pytest.fixture
def served(people: People, tmp_path: Path, small_base: Path) -> Iterator[Served]:
    served = Served(people, tmp_path / "home", small_base)
    yield served
    served.engine.close()


def samples(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All that Prometheus would read."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_text(page)
        for sample in family.samples
    }


def total(found: dict[Any, float], name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    wanted = labels.items()
    return sum(value for (key, has), value in found.items() if key == name and wanted <= has)


def test_every_dialect_is_counted_for_its_user(served: Served) -> None:
    with served.running(lambda: served.completer.load(None)):
        until(lambda: served.client.get("/ready").status_code == 200)
        for number, (route, body) in enumerate(ASKS):
            answer = served.ask("ada", route, json=body, headers={"X-Request-ID": f"id-{number}"})
            assert answer.status_code == 200, (route, answer.text)
            if answer.headers["content-type"] == "application/json" and "usage" in answer.json():
                said = answer.json()["usage"]
                line = served.line(f"id-{number}")
                assert line["prompt_tokens"] == said["prompt_tokens"]
                assert line["tokens"] == said.get("completion_tokens", 0)
        lines = [served.line(f"id-{number}") for number in range(len(ASKS))]
        for (route, _), line in zip(ASKS, lines, strict=True):
            assert line["prompt_tokens"] > 0, line
            assert (line["tokens"] > 0) == ("embeddings" not in route), line
            assert (line["first_token_ms"] is not None) == ("embeddings" not in route), line
            assert line["ms"] >= (line["first_token_ms"] or 0)
            assert line["route"] == route.split()[1]
            assert (line["user"], line["engine"]) == (served.people.ids["ada"], "local")
        served.ask("bob", "POST /v1/completions", json=ASKS[0][1], headers={"X-Request-ID": "b"})
        theirs = served.line("b")
        assert served.usage.flush()
        page = served.ask("root1", "GET /metrics").text
        mine = served.ask("ada", "GET /api/v1/analytics").json()["usage"]
        everybodys = served.ask("root1", "GET /api/v1/analytics").json()["usage"]
    (used,) = mine
    assert (used["user"], used["model"], used["cancelled"]) == ("ada", "tiny", 0)
    assert used["requests"] == sum(MODELS.get(route, 1) for route, _ in ASKS)
    assert used["prompt_tokens"] == sum(line["prompt_tokens"] for line in lines)
    assert used["tokens"] == sum(line["tokens"] for line in lines)
    assert 0 < used["first_token_seconds"] < used["seconds"]
    assert [one["user"] for one in everybodys] == ["ada", "bob"]
    assert everybodys[1]["tokens"] == theirs["tokens"] == 6
    found = samples(page)
    generated = total(found, "codetune_generated_tokens_total", engine="local")
    assert generated == used["tokens"] + theirs["tokens"]
    for route, count in Counter([*(route for route, _ in ASKS), ASKS[0][0]]).items():
        named = {"method": "POST", "route": route.split()[1]}
        assert total(found, "codetune_http_requests_total", outcome="ok", **named) == count
        assert total(found, "codetune_http_request_seconds_count", **named) == count
    answers = total(found, "codetune_answers_total", outcome="finished")
    assert total(found, "codetune_first_token_seconds_count", engine="local") == answers
    assert total(found, "codetune_batch_rows_count") == total(found, "codetune_steps_total")
    hits = total(found, "codetune_prefix_cache_hits_total")
    assert hits > 0
    assert hits + total(found, "codetune_prefix_cache_misses_total") == answers
    assert total(found, "codetune_embedded_texts_total") == 1
    assert total(found, "codetune_prefix_cache_bytes") > 0
    assert total(found, "codetune_models_loaded") == total(found, "codetune_database_up") == 1


def test_the_operations_page_names_every_metric_and_no_other(served: Served) -> None:
    written = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    section = written.split("## Monitoring")[1].split("\n## ")[0]
    table = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = {f"codetune_{name}" for cell in table for name in re.findall(r"`(\w+)`", cell)}
    with served.running():
        page = served.ask("root1", "GET /metrics").text
    families = {family.name: family.type for family in read_text(page)}
    offered = {
        f"{name}_total" if kind == "counter" else name
        for name, kind in families.items()
        if name.startswith("codetune_")
    }
    assert listed == offered
    asked = set(re.findall(r"codetune_[a-z_]+", section))
    assert len(asked) > 6
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} <= offered


def test_the_page_says_nothing_of_anybody(served: Served) -> None:
    """Who scrapes sees neither names nor what was asked, and clients make no new labels."""
    with served.running(lambda: served.completer.load(None)):
        until(lambda: served.client.get("/ready").status_code == 200)
        with served.database.write() as session:
            root = users.get_user(session, "root1")
            _, scraper = tokens.make_token(session, root, "prometheus", ["metrics"])
        served.ask("ada", "POST /v1/completions", json={"prompt": SECRET, "max_tokens": 1})
        for number in range(5):
            served.ask("ada", f"GET /{SECRET}/{number}?{SECRET}={SECRET}")
            served.ask("ada", f"GET /v1/models/{SECRET}-{number}")
            served.ask("ada", "POST /v1/completions", json={"model": SECRET + str(number)})
            served.ask(None, "BREW /v1/models")
        served.ask("ada", "POST /api/v1/tuning", json={"source": "https://git.example.com/a/b"})
        refused = [served.ask(name, "GET /metrics").status_code for name in (None, "ada", "vic")]
        headers = {"Authorization": f"Bearer {scraper}"}
        answer = served.ask(None, "GET /metrics", headers=headers)
        others = served.ask(None, "GET /v1/models", headers=headers)
        open_metrics = served.ask(
            None, "GET /metrics", headers={**headers, "Accept": "application/openmetrics-text"}
        )
    assert refused == [401, 403, 403]
    assert (answer.status_code, others.status_code) == (200, 403)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert {family.name for family in read_open(open_metrics.text)} >= {"codetune_answers"}
    found = samples(answer.text)
    said = {value for _, labels in found for _, value in labels}
    for word in (SECRET, "ada", "root1", "tiny", *served.people.ids.values()):
        assert not any(word in value for value in said)
    assert SECRET not in answer.text
    assert total(found, "codetune_http_requests_total", route="(none)") == 10
    assert total(found, "codetune_http_requests_total", route="/v1/models/{name:path}") == 5
    assert total(found, "codetune_jobs", state="queued") == 1
    routes = {dict(has).get("route") for name, has in found if name.startswith("codetune_http")}
    assert len(routes - {None}) == 6, routes
    assert not any(SECRET in line for line in served.log.getvalue().splitlines())


def test_what_an_editor_says_of_completions_is_seen(served: Served) -> None:
    """Shown, accepted, dismissed, and what stayed: in the analytics and on the page."""
    before = "import shop\n\n\ndef total(prices):\n    "

    def complete(prefix: str) -> tuple[str, str]:
        segments = {"prefix": prefix, "suffix": "\n", "filepath": "shop/total.py"}
        answer = served.ask("ada", "POST /v1/completions", json={"segments": segments}).json()
        return answer["id"], answer["choices"][0]["text"]

    def say(completion: str, *kinds: str) -> None:
        for kind in kinds:
            body = {"type": kind, "completion_id": completion, "choice_index": 0}
            assert served.ask("ada", "POST /v1/events", json=body).status_code == 200
        body["choice_index"] = 2**64  # no database keeps it
        assert served.ask("ada", "POST /v1/events", json=body).status_code == 400

    with served.running(lambda: served.completer.load(None)):
        until(lambda: served.client.get("/ready").status_code == 200)
        accepted, suggested = complete(before)
        assert len(suggested) > 10
        say(accepted, "view", "select", "select")
        dismissed, _ = complete("x = 1\n")
        say(dismissed, "view", "view", "dismiss")
        served.now = 40.0
        complete(before + "#" + suggested[1:] + "\n")

        def quality() -> dict[str, Any]:
            (one,) = served.ask("ada", "GET /api/v1/analytics").json()["quality"]
            return dict(one)

        # What is answered comes to the database a moment later.
        until(lambda: quality()["looked_at"] == 1)
        found = quality()
        page = samples(served.ask("root1", "GET /metrics").text)
        others = served.ask("bob", "GET /api/v1/analytics").json()["quality"]
    assert others == []
    assert (found["shown"], found["accepted"], found["dismissed"]) == (2, 1, 1)
    assert (found["accept_rate"], found["dismiss_rate"], found["looked_at"]) == (0.5, 0.5, 1)
    assert found["edit_ratio"] == pytest.approx(1 / len(suggested.rstrip()), rel=0.01)
    for event, count in (("view", 2), ("select", 1), ("dismiss", 1)):
        assert total(page, "codetune_completion_events_total", kind="base", event=event) == count
    assert total(page, "codetune_completion_edit_ratio_count", kind="base") == 1


def test_who_goes_away_is_counted_with_what_was_written_for_them(served: Served) -> None:
    body = {"prompt": "x", "max_tokens": 3000, "stream": True, "temperature": 0}
    with served.running(lambda: served.completer.load(None)):
        until(lambda: served.client.get("/ready").status_code == 200)
        headers = {**served.people.headers("ada"), "X-Request-ID": "gone"}
        with served.client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            next(answer.iter_lines())
        line = served.line("gone")
        until(lambda: served.engine.stats().cancelled)
    assert (line["outcome"], line["status"]) == ("cancelled", 200)
    assert 0 < line["tokens"] < 3000
    with served.database.session() as session:  # written down by the server's end
        row = session.query(Usage).one()
    assert (row.requests, row.cancelled, row.answered) == (1, 1, 1)
    assert row.completion_tokens == line["tokens"]


def test_a_server_says_when_it_is_ready(served: Served) -> None:
    """Alive at once; ready when the base is loaded and the schema is its own; not in the end."""
    go_on = threading.Event()

    def load() -> None:
        go_on.wait(30)
        served.completer.load(None)

    with served.running(load, drain=30) as server:
        early = served.client.get("/ready")
        assert served.client.get("/health").status_code == 200
        assert (early.status_code, early.json()["reason"]) == (
            503,
            "The base model is being loaded.",
        )
        go_on.set()
        until(lambda: served.client.get("/ready").status_code == 200)
        with served.database.connection() as connection, connection.begin():
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        until(lambda: "schema" in served.client.get("/ready").text)
        with served.database.connection() as connection, connection.begin():
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{found}'"))
        until(lambda: served.client.get("/ready").status_code == 200)
        body = {"prompt": "x", "max_tokens": 4000, "stream": True, "temperature": 0}
        headers = served.people.headers("ada")
        with served.client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.should_exit = True
            drained = until(lambda: _not_ready(served))
            assert served.client.get("/health").status_code == 200
        assert drained == "The server is shutting down."


def _not_ready(served: Served) -> str | None:
    answer = httpx.get(f"{served.url}/ready", timeout=30)
    return None if answer.status_code == 200 else answer.json()["reason"]


def test_a_database_that_does_not_answer_is_no_place_for_requests(
    served: Served, people: People, tmp_path: Path
) -> None:
    """It is said without its address, and the metrics still have everything else."""
    if not served.database.is_sqlite:
        pytest.skip("the file is taken away")
    with served.running(lambda: served.completer.load(None)):
        until(lambda: served.client.get("/ready").status_code == 200)
        served.database.engine.dispose()
        file = Path(str(served.database.engine.url.database))
        kept = file.rename(file.with_suffix(".kept"))
        file.write_bytes(b"no database" * 1000)
        until(lambda: served.client.get("/ready").status_code == 503)
        answer = served.client.get("/ready")
        assert answer.json()["reason"] == "The database does not answer."
        for rest in file.parent.glob(f"{file.name}*"):
            rest.unlink()
        kept.rename(file)
        until(lambda: served.client.get("/ready").status_code == 200)


def test_a_base_that_cannot_be_loaded_ends_the_server(served: Served) -> None:
    def load() -> None:
        raise ModelError("It is broken.")

    with listen("127.0.0.1", 0) as listener:
        listening = threading.Event()
        server = Server(create_app(served.completer), served.engine, listening.set, load=load)
        with pytest.raises(ModelError, match="It is broken"):
            server.run([listener])
    assert not listening.is_set()


def test_a_remote_engine_may_not_be_called_as_the_embedded_one() -> None:
    with pytest.raises(ValueError, match="'local' is the embedded engine"):
        ServingOptions(engines=[{"name": "local", "url": "http://127.0.0.1:1/v1"}])  # type: ignore[list-item]


def test_without_accounts_the_page_is_this_machines(
    served: Served,
) -> None:
    app = create_app(served.completer, hosts=["codetune.test"])
    here, elsewhere = (
        call(app, request("GET", "/metrics"), client=client)[0]
        for client in ("127.0.0.1", "10.0.0.7")
    )
    assert (here.status_code, elsewhere.status_code) == (200, 403)
    assert "codetune_jobs" not in here.text
    assert "codetune_database_up" not in here.text
