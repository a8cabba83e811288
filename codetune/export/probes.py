"""The prompts on which an export is compared with the model: text, gaps and conversations."""

from __future__ import annotations

from dataclasses import dataclass

from codetune.models.prompts import Renderer

ANSWER = 24  # tokens that are compared, at most, after each prompt
TEXTS = (
    "def total(items):\n    return sum(",
    "import json\nfrom pathlib import Path\n\n\ndef read_config(path: Path) -> dict:\n    ",
    "func (s *Server) Handle(w http.ResponseWriter, r *http.Request) {\n\t",
    "# Grüße, 你好 🙂 <|im_end|> 1234567 I'll\n\n\tSELECT name  FROM users WHERE id = ",
)
_GAPS = (
    ("def area(width, height):\n    return ", "\n\n\nprint(area(3, 4))\n", "shapes.py"),
    ("for (let i = 0; i < ", "; i++) {\n  console.log(items[i]);\n}\n", "list.js"),
)
_QUESTION = "Write a function that reverses a string."


@dataclass(frozen=True)
class Probe:
    """A prompt as token ids, and what kind of prompt it is."""

    kind: str  # "text" | "gap" | "chat"
    ids: tuple[int, ...]


def probes_for(renderer: Renderer, window: int | None) -> list[Probe]:
    """The prompts of a base that fit its `window` (tokens) together with their answers."""
    start = renderer.start(None, None)
    found = [Probe("text", (*start, *renderer.plain(text))) for text in TEXTS]
    if renderer.fim is not None:
        for before, after, path in _GAPS:
            opening = renderer.fim_opening(before, after, repo="team/shop", path=path)
            found.append(Probe("gap", tuple(opening.ids)))
    asked = [{"role": "user", "content": _QUESTION}]
    found.append(Probe("chat", tuple(renderer.chat(asked))))
    room = (window or ANSWER * 100) - ANSWER
    return [probe for probe in found if 0 < len(probe.ids) <= room]
