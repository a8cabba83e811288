"""Ctrl-C and SIGTERM: the same way out, exit codes of their own, a limit on the time it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

BOTH = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
# The command line with one more command, which says "begun" and does `{work}`.
PROGRAM = """
import signal, sys, time
import click
from codetune.cli import main
from codetune.cli.main import COMMANDS, cli
from codetune.interrupt import unhurried

class Work:
    def __del__(self):
        print("begun", flush=True)
        time.sleep(60)

@click.command()
def wait():
    {work}

main.Commands.get_command = lambda *_: wait
sys.argv = ["codetune", "models"]
main.main()
"""


def start(work: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@BOTH
def test_what_python_does_is_unwound(number: int, code: int) -> None:
    process = start("""
    try:
        print("begun", flush=True); time.sleep(60)
    finally:
        print("cleaned up", flush=True)""")
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (code, "cleaned up\n")
    assert errors.strip() == (
        "Stopped. What is finished is kept: run the same command again to go on."
    )


@BOTH
def test_a_long_call_into_c_code_is_not_waited_for(number: int, code: int) -> None:
    """A call of minutes that Python cannot break off, as a pass of a large model is one."""
    process = start("""
    import hashlib
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 500_000_000)""")
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == code
    assert "run the same command again" in errors
    assert time.monotonic() - began < 20  # 1.6 s and what a busy machine adds


@BOTH
def test_an_interrupt_that_python_forgets_ends_it_all_the_same(number: int, code: int) -> None:
    """KeyboardInterrupt within `__del__` is printed and ignored; the work would go on."""
    process = start("""
    work = Work()
    del work
    time.sleep(60)""")
    process.send_signal(number)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == code
    assert "run the same command again" in errors


def test_who_saves_first_is_given_the_time() -> None:
    process = start("""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    with unhurried(signal.SIGTERM):
        print("begun", flush=True)
        while not asked:
            time.sleep(0.01)
        time.sleep(2.5)
        print("saved", flush=True)""")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=50)
    assert (process.returncode, output) == (0, "saved\n")
