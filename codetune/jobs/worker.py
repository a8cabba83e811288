"""A worker: takes jobs from the queue, runs each in a child process, keeps their leases.

One thread, one loop: hear the children, write down what they told, renew leases, see who is to
be cancelled, take over from dead workers, claim what fits. The database may go away for a while:
children go on as long as their leases last.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from codetune.errors import AccessError, CodetuneError, StoreError
from codetune.jobs.config import JobOptions
from codetune.jobs.limits import check_again
from codetune.jobs.presence import Presence, machine
from codetune.jobs.process import Child, scrubbed
from codetune.jobs.queue import Claim, Member, Outcome, Queue
from codetune.jobs.retention import forget_old
from codetune.jobs.running import Attempt
from codetune.jobs.tidying import forget_ended
from codetune.jobs.tokens import with_token
from codetune.store.database import Database

SPINS = "1000"  # rounds that a job's thread waits for the others before it leaves the core
_WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # the user's own choice of that
POLL = 0.5  # seconds between two looks for new jobs and cancelled ones
_TIDY = 3600.0  # seconds between two looks for what is to be forgotten
_log = logging.getLogger(__name__)


class Worker:
    """`slots` jobs at a time, until `stop` is called or, with `once`, nothing is left to do."""

    def __init__(
        self,
        database: Database,
        home: Path,
        options: JobOptions | None = None,
        *,
        slots: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.options = options or JobOptions()
        self.id = secrets.token_hex(8)
        self.slots = slots
        self._database, self._queue = database, Queue(database, self.options)
        self._jobs = home / "jobs"
        self._presence = Presence(self._jobs / "workers", self.id)
        self._environment = os.environ if environment is None else environment
        self._running: dict[int, Attempt] = {}  # by slot
        self._stopping = threading.Event()
        self._heard = selectors.DefaultSelector()
        self._beaten = self._reaped = float("-inf")
        self._cut_off = False  # said once, not at every turn until the database is back
        self._tidied: dict[str, float] = {}  # when nothing was left to forget, by what it is

    def stop(self, *_: object) -> None:
        """End soon: the jobs go back into the queue. A handler of signals, too."""
        self._stopping.set()

    def run(self, *, once: bool = False) -> None:
        """Work until told to stop; with `once`, until no job is ready and none runs."""
        member = Member(self.id, machine(), socket.gethostname(), os.getpid(), self.slots)
        with self._presence:
            self._queue.join(member)
            self._presence.sweep(self._queue.members())
            try:
                while not self._stopping.is_set():
                    idle = self._turn()
                    if once and idle and not self._running:
                        break
                    self._listen(POLL)
            finally:
                self._go()
                self._queue.leave(self.id)

    def _turn(self) -> bool:
        """Everything that is due; True when there is nothing to claim."""
        try:
            self._keep_leases()
            self._settle_ended()
            self._cancel()
            self._reap()
            self._tidy()
            idle = not self._claim()
        except StoreError as error:
            # Unreachable or locked for too long: the same again at the next turn.
            if not self._cut_off:
                _log.warning("%s", error)
            self._cut_off = True
            self._drop_unleased()
            return False
        if self._cut_off:
            _log.info("The database answers again.")
        self._cut_off = False
        return idle

    def _listen(self, seconds: float) -> None:
        """Wait for reports, `seconds` at most, and read them."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopping.is_set():
            if not self._running:
                self._stopping.wait(left)
                return
            # Short waits: a child that ends closes its pipe, which wakes this at once.
            for key, _ in self._heard.select(min(left, 0.1)):
                attempt: Attempt = key.data
                if not attempt.hear():
                    self._heard.unregister(key.fileobj)
                    return

    def _keep_leases(self) -> None:
        now = time.monotonic()
        if now - self._beaten < self.options.lease / 5:
            return
        lost = self._queue.beat(self.id, [one.claim for one in self._running.values()])
        self._beaten = now
        for slot, one in list(self._running.items()):
            if one.claim in lost:
                _log.warning("Job %s belongs to another worker by now.", one.claim.job)
                self._end(slot)

    def _settle_ended(self) -> None:
        for slot, one in list(self._running.items()):
            if self._stopping.is_set():
                # Its end is our doing: or a service manager's, who ends all at the same moment.
                one.release()
            try:
                over = one.write_down(self._queue)
            except StoreError:
                raise
            except CodetuneError as error:  # what it tells cannot be kept: that job's fault alone
                _log.warning("Job %s: %s", one.claim.job, error)
                failed = Outcome("failed", message=error.message, advice=error.advice)
                self._queue.finish(one.claim, failed)
                over = True
            if over:
                self._end(slot)

    def _cancel(self) -> None:
        asked = self._queue.cancelled([one.claim for one in self._running.values()])
        for one in self._running.values():
            if one.claim.job in asked:
                one.child.stop(self.options.grace)

    def _reap(self) -> None:
        now = time.monotonic()
        if now - self._reaped < self.options.lease / 3:
            return
        for job in self._queue.reap(self._presence.is_dead):
            _log.warning("Job %s was taken over from a worker that is gone.", job)
        self._reaped = now

    def _tidy(self) -> None:
        """Some of what is to be forgotten at each turn; an hour's rest when nothing is."""
        for what, forget in (("Ended jobs", self._forget_jobs), ("Old rows", self._forget_rows)):
            now = time.monotonic()
            if now - self._tidied.get(what, float("-inf")) < _TIDY:
                continue
            try:
                if forget():
                    continue
            except StoreError as error:  # no reason not to work
                _log.warning("%s are not forgotten: %s", what, error)
            self._tidied[what] = now

    def _forget_jobs(self) -> int:
        days = self.options.keep_days
        return forget_ended(self._database, self._jobs.parent, days) if days else 0

    def _forget_rows(self) -> int:
        return forget_old(self._database, self.options)

    def _claim(self) -> bool:
        """Fill the free slots; True when something was claimed."""
        claimed = False
        while len(self._running) < self.slots:
            claim = self._queue.claim(self.id)
            if claim is None:
                return claimed
            claimed = True
            self._start(claim)
        return claimed

    def _start(self, claim: Claim) -> None:
        try:
            work = check_again(
                self._database, self._jobs.parent, claim.owner, claim.work, self.options
            )
        except AccessError as error:
            _log.warning("Job %s is refused: %s", claim.job, error)
            self._queue.finish(claim, Outcome("failed", message=error.message, advice=error.advice))
            return
        slot = next(n for n in range(self.slots) if n not in self._running)
        environment = scrubbed(self._environment, self.options.environment)
        environment |= {"CODETUNE_HOME": str(self._jobs.parent)}
        child = Child(
            claim.job,
            with_token(replace(claim, work=work), self._database, self._jobs.parent),
            self._jobs / claim.job,
            environment=environment | devices(slot, self.slots, environment),
            nice=self.options.nice,
        )
        one = self._running[slot] = Attempt(claim, child)
        self._heard.register(child.reports, selectors.EVENT_READ, one)
        _log.info("Job %s: attempt %d in process %d.", claim.job, claim.attempt, child.pid)

    def _end(self, slot: int) -> None:
        one = self._running.pop(slot)
        if one.child.reports in self._heard.get_map():
            self._heard.unregister(one.child.reports)
        one.child.kill()
        one.child.close()

    def _drop_unleased(self) -> None:
        """Without a lease another worker may have the jobs by now: two must not do the same."""
        if time.monotonic() - self._beaten > self.options.lease:
            for slot in list(self._running):
                self._end(slot)

    def _go(self) -> None:
        """Every job back into the queue, where it waits for the next worker."""
        self._stopping.set()
        for one in self._running.values():
            one.child.stop(self.options.grace)
        until = time.monotonic() + 10
        while self._running and time.monotonic() < until:
            try:
                self._settle_ended()
            except StoreError as error:
                _log.warning("%s", error)
            time.sleep(0.05)
        for slot in list(self._running):
            self._end(slot)


def devices(slot: int, slots: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What of the machine a slot has: its own GPU, and its share of the cores.

    The GPU's number is one of those that the worker may see. Set OMP_NUM_THREADS, and jobs
    keep it: sums depend on the number of threads in their last bits.

    Threads that compute together wait for the last of them, GNU OpenMP's on the core for a
    millisecond or so. Alone that is fastest; beside another program that computes, here the server
    or another slot's job, each waits for a thread that the other's waiting keeps off the core
    (`benchmarks/side_by_side.py`). So jobs wait shortly.
    """
    chosen = {} if _WAITING & set(environment) else {"GOMP_SPINCOUNT": SPINS}
    seen = gpus(environment)
    if seen:
        chosen["CUDA_VISIBLE_DEVICES"] = seen[slot % len(seen)]
    if "OMP_NUM_THREADS" not in environment:
        chosen["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // slots))
    return chosen


def gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment may use, without asking the driver."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    nodes = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()]
    return [str(number) for number in range(len(nodes))]


def ends_on_signals(worker: Worker) -> None:
    """SIGTERM and Ctrl-C let the worker put its jobs back before it ends."""
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, worker.stop)


def ends_with_parent(worker: Worker) -> None:
    """The worker ends when standard input closes: whoever has started it is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        worker.stop()

    threading.Thread(target=wait, daemon=True).start()
