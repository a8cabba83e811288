"""Jobs as people use them: whose they are, how many, what they may read; following them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codetune.accounts.teams import add_team, join, leave
from codetune.accounts.tokens import make_token
from codetune.accounts.users import actor_of
from codetune.cli import jobs as command
from codetune.errors import (
    BadRequestError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    QuotaError,
    SourceError,
    UnsafeSourceError,
)
from codetune.jobs.config import JobOptions
from codetune.jobs.limits import check_again, label_of, settled_path
from codetune.jobs.queue import Outcome
from codetune.jobs.service import Jobs, public
from codetune.jobs.work import KINDS, Work
from codetune.jobs.worker import Worker
from codetune.pipeline import Journey
from codetune.progress import Progress
from codetune.project import ProjectConfig
from codetune.registry.access import LOCAL, Actor
from codetune.registry.cards import Registry
from codetune.registry.ownership import claim
from codetune.store.database import Database
from codetune.store.jobs import STATES, Job
from codetune.store.models import Model
from codetune.store.tokens import Token
from codetune.store.users import User
from tests.unit.jobs.office import Office
from tests.unit.registry.finished_stages import stages

URL = "https://git.example/team/shop.git"
ANNA, BEN = Actor("anna", "anna", "member"), Actor("ben", "ben", "member")
VIEWER, ADMIN = Actor("vera", "vera", "viewer"), Actor("root", "root", "admin")


@pytest.fixture
def service(database: Database, office: Office, tmp_path: Path) -> Jobs:
    for actor in (ANNA, BEN, VIEWER, ADMIN):
        office.user(actor.id)
    (tmp_path / "open").mkdir()
    options = JobOptions(max_queued=3, roots=(str(tmp_path / "open"),), teachers=("http://t/v1",))
    return Jobs(database, options, tmp_path / "home")


def submit(service: Jobs, actor: Actor = ANNA, source: str = URL, **config: Any) -> Job:
    return service.submit(actor, "tune", source, ProjectConfig.model_validate(config))


def test_what_is_not_yours_is_not_there(service: Jobs) -> None:
    mine = submit(service)
    refused: list[Callable[[], Any]] = [
        lambda: service.get(BEN, mine.id),
        lambda: service.cancel(BEN, mine.id),
        lambda: service.retry(BEN, mine.id),
        lambda: service.log(BEN, mine.id),
        lambda: list(service.follow(BEN, mine.id)),
        lambda: service.list(BEN, after=mine.id),
        lambda: service.get(None, mine.id),
    ]
    for call in refused:
        with pytest.raises(NotFoundError, match=f"There is no job '{mine.id}'"):
            call()
    assert service.list(BEN).jobs == []
    assert service.list(None).jobs == []
    for actor in (ANNA, ADMIN, LOCAL):
        assert [job.id for job in service.list(actor).jobs] == [mine.id]
    with pytest.raises(ForbiddenError):
        submit(service, VIEWER)
    assert service.cancel(ADMIN, mine.id).state == "cancelled"


def test_the_quota_of_waiting_jobs_is_each_users_own(service: Jobs) -> None:
    jobs = [submit(service) for _ in range(3)]
    with pytest.raises(QuotaError, match="3 jobs are waiting"):
        submit(service)
    submit(service, BEN)
    service.cancel(ANNA, jobs[0].id)
    submit(service)
    with pytest.raises(QuotaError):
        service.retry(ANNA, jobs[0].id)


def test_only_who_manages_the_server_can_jump_the_queue(service: Jobs) -> None:
    config = ProjectConfig()
    with pytest.raises(ForbiddenError):
        service.submit(ANNA, "ingest", URL, config, priority=1)
    assert service.submit(ANNA, "ingest", URL, config, priority=-1).priority == -1
    assert service.submit(ADMIN, "ingest", URL, config, priority=1).priority == 1


@pytest.mark.parametrize(
    ("source", "config", "error"),
    [
        ("/etc", {}, UnsafeSourceError),
        ("file:///etc", {}, UnsafeSourceError),
        ("{open}/../secret", {}, UnsafeSourceError),
        ("{open}/link", {}, UnsafeSourceError),
        ("ext::sh -c id", {}, UnsafeSourceError),
        ("--upload-pack=id", {}, UnsafeSourceError),
        ("https://anna:secret@git.example/team/shop.git", {}, ConfigError),
        ("https://ghp_token@git.example/team/shop.git", {}, ConfigError),
        (URL, {"base": "/etc"}, UnsafeSourceError),
        (URL, {"base": "~/weights"}, UnsafeSourceError),
        (
            URL,
            {"dataset": {"mix": [{"name": "x", "path": "/etc/passwd", "share": 0.1}]}},
            UnsafeSourceError,
        ),
        (URL, {"dataset": {"review": "/etc/passwd"}}, UnsafeSourceError),
        (
            URL,
            {"dataset": {"instructions": {"teacher": {"url": "http://127.0.0.1:1/"}}}},
            ConfigError,
        ),
    ],
)
def test_users_of_a_server_do_not_reach_what_is_the_administrators(
    service: Jobs, tmp_path: Path, source: str, config: dict[str, Any], error: type[Exception]
) -> None:
    (tmp_path / "open" / "link").symlink_to("/etc")
    source = source.format(open=tmp_path / "open")
    with pytest.raises(error):
        submit(service, ANNA, source, **config)
    assert service.list(ANNA).jobs == []


@pytest.mark.parametrize("actor", [ANNA, LOCAL])
@pytest.mark.parametrize("path", ["~nosuchuser/x", "x" * 300, "{open}/" + "x" * 300])
def test_what_cannot_be_a_path_is_refused_at_once(
    service: Jobs, actor: Actor, path: str, tmp_path: Path
) -> None:
    path = path.format(open=tmp_path / "open")
    mixed = {"mix": [{"name": "x", "path": path, "share": 0.1}]}
    asked: list[Callable[[], Any]] = [
        lambda: submit(service, actor, path),
        lambda: submit(service, actor, base=path),
        lambda: submit(service, actor, dataset=mixed),
        lambda: service.submit(actor, "pull", path, ProjectConfig()),
        lambda: settled_path(actor, path, (str(tmp_path / "open"),), "path"),
    ]
    for ask in asked:
        with pytest.raises(SourceError, match="cannot be used"):
            ask()
    assert service.list(actor).jobs == []


@pytest.mark.parametrize("name", ["my model!", "../x", "ä", "a//b", "x" * 97, "\ud800"])
def test_a_name_that_cannot_be_is_refused_before_the_training(service: Jobs, name: str) -> None:
    for actor in (ANNA, LOCAL):
        with pytest.raises(BadRequestError):
            submit(service, actor, name=name)
    assert service.list(ADMIN).jobs == []


def test_a_name_made_of_a_long_source_can_be_used(service: Jobs) -> None:
    job = submit(service, ANNA, f"https://git.example/team/{'long-' * 40}")
    Registry(service.home).check_name(job.parameters["config"]["name"])


def test_what_the_administrator_has_opened_can_be_used(service: Jobs, tmp_path: Path) -> None:
    inside = tmp_path / "open" / "shop"
    inside.mkdir()
    job = submit(
        service,
        ANNA,
        str(inside),
        dataset={"instructions": {"teacher": {"url": "http://t/v1", "remote": True}}},
    )
    assert job.parameters["source"] == str(inside)
    assert job.parameters["folder"] is None


def test_a_model_is_saved_under_its_owners_name_and_nobody_elses(
    service: Jobs, database: Database
) -> None:
    assert submit(service).parameters["config"]["name"] == "anna/shop"
    assert submit(service, BEN).parameters["config"]["name"] == "ben/shop"
    with database.session() as session:
        owners = {row.name: row.owner_id for row in session.query(Model)}
    assert owners == {"anna/shop": "anna", "ben/shop": "ben"}
    with database.write() as session:
        claim(session, ADMIN, "ben/taken")
    with pytest.raises(ConflictError):
        submit(service, BEN, name="ben/taken")
    assert label_of("git@host:Team/My Shop.git") == "my-shop"


def test_a_local_path_is_found_by_every_process(
    service: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "shop").mkdir(parents=True)
    job = service.submit(LOCAL, "tune", "shop", ProjectConfig(), folder=tmp_path / "here")
    assert job.parameters["source"] == str(tmp_path / "here" / "shop")
    assert job.parameters["folder"] == str(tmp_path / "here")


def test_cancel_and_retry_ask_for_the_right_state(service: Jobs, office: Office) -> None:
    job = submit(service)
    queue = office.queue()
    with pytest.raises(ConflictError, match="is queued"):
        service.retry(ANNA, job.id)
    taken = queue.claim("worker")
    assert taken is not None
    queue.finish(taken, Outcome("failed", message="no"))
    with pytest.raises(ConflictError, match="has failed already"):
        service.cancel(ANNA, job.id)
    again = service.retry(ANNA, job.id)
    assert (again.state, again.error, again.finished) == ("queued", None, None)
    assert service.cancel(ANNA, job.id).state == "cancelled"
    assert service.cancel(ANNA, job.id).state == "cancelled"  # twice is once
    assert queue.claim("worker") is None


def test_a_base_that_has_become_somebodys_model_is_not_taken(
    service: Jobs, office: Office, tmp_path: Path
) -> None:
    """It was nobody's when the jobs were submitted: a name of the hub, for all they knew."""
    waits, retried = submit(service, BEN, base="acme/shop"), submit(service, BEN, base="acme/shop")
    service.cancel(BEN, retried.id)
    Registry(service.home).register("acme/shop", **stages(tmp_path / "stages"))
    with office.database.write() as session:
        claim(session, ANNA, "acme/shop")
    with pytest.raises(NotFoundError, match="no model 'acme/shop'"):
        service.retry(BEN, retried.id)
    Worker(office.database, service.home, service.options).run(once=True)
    refused = service.get(BEN, waits.id)
    assert (refused.state, refused.attempts) == ("failed", 1)
    assert refused.error is not None and "no model 'acme/shop'" in refused.error["message"]
    assert service.log(BEN, waits.id) == ""  # no process was started


def test_what_is_no_model_of_the_registrys_stays_none_while_the_job_runs(
    service: Jobs, office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work("tune", URL, {"base": "anna/shop"})
    checks = (office.database, service.home)
    options = service.options.model_copy(update={"sites": ("git.company.lan",)})
    mine = check_again(*checks, BEN.id, work, options)
    assert (mine.foreign_base, mine.sites) == (True, ("git.company.lan",))
    assert check_again(*checks, LOCAL.id, work, options).sites is None  # any
    Registry(service.home).register("anna/shop", **stages(tmp_path / "stages"))
    with office.database.write() as session:
        claim(session, ANNA, "anna/shop")
    for owner in (ANNA.id, LOCAL.id):
        assert not check_again(*checks, owner, work, service.options).foreign_base
    journey = Journey(URL, ProjectConfig(base="anna/shop"), Progress(), foreign_base=True)
    monkeypatch.setattr("codetune.models.load.resolve_base", "of the hub: {}".format)
    assert journey.base() == "of the hub: anna/shop"  # type: ignore[comparison-overlap]


def test_lists_are_pages_newest_first(service: Jobs, office: Office) -> None:
    names = [office.put("anna", kind=kind) for kind in ("tune", "ingest", "tune", "dataset")]
    first = service.list(ANNA, limit=3)
    assert [job.id for job in first.jobs] == names[:0:-1]
    rest = service.list(ANNA, limit=3, after=first.next)
    assert ([job.id for job in rest.jobs], rest.next) == ([names[0]], None)
    assert [job.id for job in service.list(ANNA, kind="ingest").jobs] == [names[1]]
    assert service.list(ANNA, state="running").jobs == []
    with pytest.raises(BadRequestError, match="no state 'gone'"):
        service.list(ANNA, state="gone")


def test_a_follower_who_comes_back_misses_nothing(service: Jobs, office: Office) -> None:
    job = submit(service)
    queue = office.queue()
    taken = queue.claim("worker")
    assert taken is not None
    log = service.home / "jobs" / job.id / "log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwö\nthr")
    queue.report(taken, events=[("say", {"message": n}) for n in range(3)])
    seen = service.follow(ANNA, job.id)
    head = [next(seen) for _ in range(4)]
    seen.close()
    assert head[0].data == {"text": "one\ntwö\n"}  # whole lines while it runs
    log.write_text("one\ntwö\nthree\nend")
    queue.finish(taken, Outcome("succeeded", result={"model": "m:1"}))
    tail = list(service.follow(ANNA, job.id, head[-1].id))
    assert tail[0].data == {"text": "three\n"}
    numbers = [int(event.id.split("-")[0]) for event in [*head[1:], *tail] if event.kind != "log"]
    assert numbers == list(range(1, 7))
    assert "".join(e.data["text"] for e in [*head, *tail] if e.kind == "log") == log.read_text()
    assert list(service.follow(ANNA, job.id, tail[-1].id)) == []
    for wrong in ("x", "1", "-1-1", "1-1-1", "9" * 40):
        with pytest.raises(BadRequestError):
            next(iter(service.follow(ANNA, job.id, wrong)))


def kinds_heard(
    service: Jobs, actor: Actor, job_id: str, meanwhile: Callable[[], object]
) -> list[str]:
    """The kinds of what a stream says; after its first ping, `meanwhile` happens."""

    async def watch() -> list[str]:
        kinds: list[str] = []
        async with asyncio.timeout(10):
            async for event in service.watch(actor, job_id):
                kinds.append(event.kind)
                if event.kind == "ping" and kinds.count("ping") == 1:
                    await asyncio.to_thread(meanwhile)
        return kinds

    return asyncio.run(watch())


def test_watching_says_that_the_line_stands_and_ends_with_the_job(
    service: Jobs, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codetune.jobs.service.PING", 0.0)
    monkeypatch.setattr("codetune.jobs.service.POLL", 0.01)
    job = submit(service)

    kinds = kinds_heard(service, ANNA, job.id, lambda: service.cancel(ANNA, job.id))
    assert (kinds[0], kinds[1], kinds[-1]) == ("state", "ping", "state")


@pytest.mark.parametrize("loss", ["disabled", "revoked", "expired", "left the team"])
def test_who_loses_the_right_hears_no_more(
    loss: str, service: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codetune.jobs.service.POLL", 0.01)
    monkeypatch.setattr("codetune.jobs.service.PING", 0.0)
    job = submit(service)
    database = service._database
    with database.write() as session:
        ben = session.get_one(User, "ben")
        token, _ = make_token(session, ben, "editor")
        team = add_team(session, "shop")
        join(session, team, ben)
        row = session.get_one(Job, job.id)
        row.visibility, row.team_id = "team", team.id
        session.flush()
        follower = actor_of(session, ben, frozenset(token.scopes), token.id)

    def lose() -> None:
        with database.write() as session:
            if loss == "disabled":
                session.get_one(User, "ben").disabled = True
            elif loss == "left the team":
                leave(session, team, session.get_one(User, "ben"))
            else:
                column = "revoked" if loss == "revoked" else "expires"
                setattr(session.get_one(Token, token.id), column, token.created)

    assert kinds_heard(service, follower, job.id, lose) == ["state", "ping"]
    assert service.get(ANNA, job.id).state == "queued"


def test_a_job_is_shown_without_credentials_and_places(service: Jobs, office: Office) -> None:
    office.user(LOCAL.id)  # of this machine: of others no secret is taken
    job = submit(service, LOCAL, "https://anna:secret@git.example/team/shop.git")
    taken = office.queue().claim("worker")
    assert taken is not None and "secret" in taken.work.source  # git needs it
    office.queue().finish(taken, Outcome("succeeded", result={"model": "m", "report": "/home/r"}))
    shown = public(service.get(LOCAL, job.id), "anna")
    assert "secret" not in str(shown) and "/home" not in str(shown)
    assert shown["result"] == {"model": "m"}
    assert shown["owner"] == "anna"


def test_the_command_line_knows_the_same_kinds_and_states() -> None:
    assert set(command.KINDS) == set(KINDS)
    assert command.STATES == STATES
