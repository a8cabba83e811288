"""The database: opened, brought up to date, and asked in one transaction at a time.

It is SQLite in `$CODETUNE_HOME/codetune.db`, or PostgreSQL by its URL. The engine is
synchronous: SQLite has nothing to wait for, and the server calls it in threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy
from sqlalchemy import Connection, Engine, Executable, Row, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session

from codetune.artifacts import home
from codetune.errors import ConfigError, ConflictError, MissingExtraError, StoreError
from codetune.store.home_database import bind, refuse_if_elsewhere

FILE = "codetune.db"
VARIABLE = "CODETUNE_DATABASE"
_BUSY = 30_000  # milliseconds that a writer waits for another one
_STANDSTILL = 30  # seconds that a transaction on PostgreSQL may stand still
_WRITES = "codetune_writes"


class Database:
    """One database; threads may share it, forked processes may not."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{_WRITES: True})
        self.is_sqlite = engine.dialect.name == "sqlite"

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Open the database of `url`, of $CODETUNE_DATABASE, or of this machine's home.

        It is made when it is not there, and brought up to date when it is older than this
        version of codetune.

        Raises:
            ConfigError: the URL is none that can be used; or there is none, and the home's server
                used another database than the home's.
            MissingExtraError: PostgreSQL without the extra `postgres`.
            StoreError: it cannot be reached, or a newer version of codetune has written it.
        """
        from codetune.store.schema import migrate

        if url is None and VARIABLE not in os.environ:
            refuse_if_elsewhere(home(), VARIABLE)
        database = cls(_engine(_url(url or os.environ.get(VARIABLE))))
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        url = self._engine.url
        secret = [name for name in url.query if "pass" in name]
        shown = url.set(drivername=url.get_backend_name()).difference_update_query(secret)
        return shown.render_as_string(hide_password=True)

    @property
    def secret_url(self) -> str:
        """What `open` takes, for a child process; with the password."""
        return self._engine.url.render_as_string(hide_password=False)

    def bind(self) -> None:
        """Say in this machine's home that its server uses this database; see `home_database`."""
        own = self.is_sqlite and Path(self._engine.url.database or "") == home() / FILE
        bind(home(), None if own else self.url)

    @property
    def engine(self) -> Engine:
        return self._engine

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Read in one transaction; the database refuses to write in it.

        Rows may be used after it has ended.
        """
        with (
            renamed(self.url),
            Session(self._engine, expire_on_commit=False, autoflush=False) as session,
        ):
            yield session

    def rows(self, statement: Executable, **values: Any) -> Sequence[Row[Any]]:
        """The rows of one statement that reads, without a session's bookkeeping."""
        with renamed(self.url), self._engine.connect() as connection:
            return connection.execute(statement, values).all()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Read and write in one transaction: all of it happens, or nothing.

        SQLite has one writer at a time: this one waits for its turn before it reads.

        Raises:
            ConflictError: there is such a row already, or a row that is named is gone.
            ConfigError: a value that cannot be kept: too long, with null characters (PostgreSQL
                takes neither), or with half a surrogate pair.
            StoreError: the database cannot be reached, is locked for too long, or is full.
        """
        with (
            renamed(self.url),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def turn(self, session: Session, name: str) -> None:
        """Wait until no other `write` is in what is called `name`, and keep others out of it.

        SQLite has one writer at a time anyway; PostgreSQL's do not see each other's rows until
        they are committed, and would count them wrongly.
        """
        if not self.is_sqlite:
            key = func.hashtextextended(f"codetune {name}", 0)
            session.execute(select(func.pg_advisory_xact_lock(key)))

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection without a transaction, for what SQL alone can do."""
        with renamed(self.url), self._writer.connect() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_there() -> bool:
    """Whether `Database.open` would find a database, and not make one."""
    return bool(os.environ.get(VARIABLE)) or (home() / FILE).is_file()


@contextmanager
def renamed(where: str) -> Iterator[None]:
    """The one place where the driver's errors get names of ours."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(
            "There is such a thing already, or what it belongs to is gone.",
            advice="Look again, and try with what is there now.",
        ) from error
    except (DataError, UnicodeEncodeError) as error:  # the second: SQLite's, as it is
        raise ConfigError(
            "A value is longer than can be kept, or has null characters or half a surrogate pair."
        ) from error
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no answer"
        raise StoreError(
            f"The database {where} cannot be used: {reason}.",
            advice="Is it running and is its disk writable and not full? "
            f"${VARIABLE} names another one.",
        ) from error


def _url(given: str | None) -> URL:
    if not given:
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        return URL.create("sqlite", database=str(home() / FILE))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            "The database's URL cannot be read.", advice=_FORMS
        ) from error  # it is not shown: it may hold a password
    name = url.get_backend_name()
    if name in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if name == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite")
    raise ConfigError(f"The database cannot be {name}.", advice=_FORMS)


_FORMS = "sqlite:////folder/codetune.db, or postgresql://user:password@host:5432/codetune"


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        _make_file(Path(url.database or FILE))
        # A thread of the server takes a connection of its own; opening one is cheap.
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY / 1000}}
    else:
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    try:
        # Its errors do not repeat values: they may be anybody's code, and errors are logged.
        engine = sqlalchemy.create_engine(
            url, pool_size=8, max_overflow=40, hide_parameters=True, **options
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise MissingExtraError("PostgreSQL", "postgres") from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _prepare_postgres)
        event.listen(engine, "begin", _begin_postgres)
    return engine


def _make_file(path: Path) -> None:
    """Nobody else may read it: it holds the hashes of passwords."""
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The database {path} cannot be written: {error.strerror}.",
            advice=f"Set CODETUNE_HOME to a folder of your own, or ${VARIABLE}.",
        ) from error


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # BEGIN is said below: the driver's own comes too late
    for pragma in (
        "journal_mode = WAL",
        f"busy_timeout = {_BUSY}",
        "foreign_keys = ON",
        "synchronous = NORMAL",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A reader sees one state to its end; a writer holds the lock before it reads."""
    writes = connection.get_execution_options().get(_WRITES, False)
    if connection.info.get(_WRITES) is not writes:  # as it is set in this connection
        connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
        connection.info[_WRITES] = writes
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgres(connection: Any, _: object) -> None:
    """Who falls asleep in a transaction (a suspended machine, a cut line) loses it, and its locks:
    without this nobody could claim a job or take one over until they wake up. An administrator's
    own setting goes before ours."""
    name = "idle_in_transaction_session_timeout"
    connection.execute(
        f"SELECT set_config('{name}', '{_STANDSTILL}s', false) "
        f"WHERE current_setting('{name}') = '0'"
    )
    connection.commit()


def _begin_postgres(connection: Connection) -> None:
    if not connection.get_execution_options().get(_WRITES, False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
