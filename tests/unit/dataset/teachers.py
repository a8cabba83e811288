"""A real HTTP server that answers as an OpenAI-compatible endpoint, well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes | Iterable[bytes]]


def chat(content: str) -> Reply:
    body = {
        "choices": [{"message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20},
    }
    return 200, {}, json.dumps(body).encode()


def worded(request: dict[str, Any]) -> Reply:
    """What a good teacher says: every question with a word before it."""
    items = json.loads(request["messages"][-1]["content"])["items"]
    new = [{"id": item["id"], "instruction": f"Please: {item['question']}"} for item in items]
    return chat(json.dumps({"items": new}))


@contextmanager
def endpoint(answer: Callable[[int, dict[str, Any]], Reply]) -> Iterator[tuple[str, list[Any]]]:
    """Its base URL, and the requests as they come; `answer` gets the number and the request."""
    asked: list[Any] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(asked)
                asked.append((dict(self.headers), request))
            status, headers, body = answer(number, request)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if isinstance(body, bytes):
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                for part in [body] if isinstance(body, bytes) else body:
                    self.wfile.write(part)
            except (BrokenPipeError, ConnectionResetError):
                return  # it did not wait for the answer

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dripping(parts: int, part: bytes, pause: float) -> Iterator[bytes]:
    """A body in many parts, each sent when the one before it was taken."""
    for _ in range(parts):
        yield part
        time.sleep(pause)


def late(seconds: float, reply: Reply) -> Reply:
    time.sleep(seconds)
    return reply
