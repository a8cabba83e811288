"""llama.vim in a real Vim, typing into a terminal; and its requests, replayed.

The plugin is not part of this repository. It is found where CODETUNE_LLAMA_VIM says, or where
Vim's package managers put it; without it, or without Vim, its requests are replayed only.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.clients.conftest import Running

BEFORE = ["def add(a, b):", "    return a + b", ""]
AFTER = ["", "print(add(1, 2))"]
TYPED = "def sub("
PLUGINS = ("~/.vim/pack/*/*/llama.vim", "~/.vim/plugged/llama.vim", "~/.vim/bundle/llama.vim")
FIELDS = ["content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms"]
FIELDS += ["timings/prompt_per_second", "timings/predicted_n", "timings/predicted_ms"]
FIELDS += ["timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated"]
FIELDS += ["tokens_cached"]


def plugin() -> Path | None:
    named = os.environ.get("CODETUNE_LLAMA_VIM")
    places = [Path(named)] if named else []
    for pattern in PLUGINS:
        places += Path.home().glob(pattern.removeprefix("~/"))
    return next((place for place in places if (place / "autoload/llama.vim").is_file()), None)


def infill(**changes: Any) -> dict[str, Any]:
    """The body of the plugin's request at the end of TYPED."""
    return {
        "id_slot": 0,
        "input_prefix": "\n".join([*BEFORE, ""]),
        "input_suffix": "\n".join(["", *AFTER, ""]),
        "input_extra": [],
        "prompt": TYPED,
        "n_predict": 24,
        "stop": [],
        "n_indent": 0,
        "top_k": 40,
        "top_p": 0.9,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 250,
        "response_fields": FIELDS,
        "model": "shop",
        **changes,
    }


def test_its_requests_are_answered_as_it_reads_them(server: Running, client: OpenAI) -> None:
    chunk = {"text": "import math\n", "time": [1, 2], "filename": "math.py"}
    warm = {"n_predict": 0, "samplers": [], "t_max_prompt_ms": 1, "t_max_predict_ms": 1}
    warm |= {"input_prefix": "", "input_suffix": "", "prompt": "", "response_fields": [""]}
    with httpx.Client(base_url=server.url) as http:
        answer = http.post("/infill", json=infill(input_extra=[chunk], **warm))
        assert (answer.status_code, answer.json()) == (200, {})
        answer = http.post("/infill", json=infill())
        # The plugin looks for `"content":"` in the first line of the output before it parses.
        assert re.match(r'^\s*{.*"content"\s*:"', answer.text)
        assert "\n" not in answer.text
        found = answer.json()
        assert list(found) == FIELDS
        assert found["truncated"] is False
        assert found["timings/predicted_n"] <= 24
        assert found["timings/predicted_per_second"] > 0
        assert found["tokens_cached"] >= found["timings/prompt_n"] > 0
        more = http.post("/infill", json=infill(input_extra=[chunk]))
        # A token a byte, and Qwen's words: the repository, two files, one line break each.
        texts = ["github.com/team/shop", "math.py", chunk["text"], ""]
        words = sum(map(len, texts)) + 3 + len(texts) - 1  # type: ignore[arg-type]
        assert more.json()["timings/prompt_n"] + 0 <= found["tokens_cached"] + words
        # Its instructions: a request that only warms the cache, then a stream.
        messages = [{"role": "user", "content": "Add a comment"}]
        body = {"messages": messages, "id_slot": 0, "cache_prompt": True, "model": "tiny"}
        warmed = http.post(
            "/v1/chat/completions",
            json=body | {"samplers": [], "n_predict": 0, "stream": False, "response_fields": [""]},
        )
        assert warmed.json()["choices"][0]["message"]["content"] == ""
        body |= {"min_p": 0.1, "temperature": 0.1, "samplers": ["min_p", "temperature"]}
        stream = http.post("/v1/chat/completions", json=body | {"stream": True, "max_tokens": 8})
        events = [line[6:] for line in stream.text.split("\n") if line.startswith("data: {")]
        assert all("choices" in json.loads(event) for event in events)


def test_in_a_real_vim(server: Running, tmp_path: Path) -> None:
    """Typed text brings a suggestion; Tab takes it; the file holds what the server said."""
    vim, found = shutil.which("vim"), plugin()
    if vim is None or found is None:
        pytest.skip("no Vim, or no llama.vim: set CODETUNE_LLAMA_VIM to a copy of the plugin")
    if b"+textprop" not in subprocess.run([vim, "--version"], capture_output=True).stdout:
        pytest.skip("this Vim shows no virtual text")
    file, log = tmp_path / "shop.py", tmp_path / "log"
    file.write_text("\n".join([*BEFORE, *AFTER, ""]))
    settings = {"endpoint_fim": f"{server.url}/infill", "model_fim": "shop", "show_info": 2}
    settings |= {"n_predict": 24, "ring_update_ms": 200, "t_max_predict_ms": 1000}
    rc = tmp_path / "vimrc"
    rc.write_text(
        f"set nocompatible noswapfile\nlet g:llama_config = {json.dumps(settings)}\n"
        f"set runtimepath^={found}\nruntime plugin/llama.vim\n"
        f"call timer_start(50, {{-> writefile([llama#is_fim_hint_shown()], '{log}')}}, "
        "{'repeat': -1})\n"
    )
    with typing(vim, "-N", "-u", str(rc), "--not-a-term", str(file)) as vi:
        vi.press(":3\r")
        vi.press("o" + TYPED)
        vi.wait(log)
        vi.press("\t")
        vi.press("\x1b:wq\r")
        vi.ended()
    said = file.read_text().split("\n")
    assert said[:3] == BEFORE
    line = said[3]
    assert line.startswith(TYPED)
    assert len(line) > len(TYPED), "the suggestion was taken"
    with httpx.Client(base_url=server.url) as http:
        answer = http.post("/infill", json=infill()).json()["content"]
    assert line == TYPED + answer.split("\n")[0]


class typing:
    """Vim on a pseudo-terminal."""

    def __init__(self, *command: str) -> None:
        self._main, second = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(
            command, stdin=second, stdout=second, stderr=second, env=environment, close_fds=True
        )
        os.close(second)
        self.screen = b""

    def __enter__(self) -> typing:
        self._read(1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)
        os.close(self._main)

    def press(self, keys: str) -> None:
        for key in keys:
            os.write(self._main, key.encode())
            self._read(0.02)

    def wait(self, log: Path) -> None:
        """Until a suggestion is shown."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            self._read(0.1)
            if log.exists() and log.read_text() in ("1\n", "v:true\n"):
                return
        raise AssertionError(f"no suggestion; the screen: {self.screen[-2000:]!r}")

    def ended(self) -> None:
        until = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < until:
            self._read(0.1)
        assert self._process.poll() == 0, self.screen[-2000:]

    def _read(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while select.select([self._main], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                read = os.read(self._main, 65536)
            except OSError:
                return
            if not read:
                return
            self.screen += read
