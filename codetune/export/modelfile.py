"""The Modelfile beside a GGUF file: how Ollama writes conversations and gaps, and where it stops.

Ollama renders with Go templates and cannot read the Jinja ones of Hugging Face. A template is
recognised by what it writes, not by its text; one that is not recognised is left out, with a
warning, rather than replaced by another: a model that is spoken to otherwise than it was trained
answers badly. Source: Ollama's documentation of the Modelfile and of templates
(github.com/ollama/ollama/blob/main/docs/modelfile.mdx, docs/template.mdx).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetune.errors import ModelError
from codetune.export.architectures import Layout
from codetune.export.source import Source
from codetune.export.speech import stops
from codetune.models.prompts import Renderer

MODELFILE = "Modelfile"
_LONGEST = 16_384  # tokens of context that Ollama is told to keep; more takes memory at once
_TURN = {"role": "user", "content": "First question?"}
_TALKS: tuple[list[dict[str, str]], ...] = (
    [_TURN],
    [{"role": "system", "content": "Be brief."}, _TURN],
    [_TURN, {"role": "assistant", "content": "An answer."}, {"role": "user", "content": "More?"}],
)
Talk = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Style:
    """One way to write a conversation: as text, for comparison, and as Ollama's template."""

    name: str
    write: Callable[[Talk, str], str]  # the conversation and the name of the end-of-text token
    go: str  # with EOS in the place of that name


def _chatml(talk: Talk, end: str) -> str:
    turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in talk]
    return "".join(turns) + "<|im_start|>assistant\n"


def _titled(talk: Talk, end: str) -> str:
    turns = [
        f"{turn['role']}:\n{turn['content']}{end if turn['role'] == 'assistant' else ''}\n"
        for turn in talk
    ]
    return "".join(turns) + "assistant:\n"


def _inline(talk: Talk, end: str) -> str:
    turns = [
        f"{turn['role']}: {turn['content']}{end if turn['role'] == 'assistant' else ''}\n"
        for turn in talk
    ]
    return "".join(turns) + "assistant:"


STYLES = (
    Style(
        "ChatML",
        _chatml,
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n",
    ),
    Style(
        "titled turns",
        _titled,
        '{{ range .Messages }}{{ .Role }}:\n{{ .Content }}{{ if eq .Role "assistant" }}EOS'
        "{{ end }}\n{{ end }}assistant:\n",
    ),
    Style(
        "plain turns",
        _inline,
        '{{ range .Messages }}{{ .Role }}: {{ .Content }}{{ if eq .Role "assistant" }}EOS'
        "{{ end }}\n{{ end }}assistant:",
    ),
)


@dataclass(frozen=True)
class Spec:
    """What Ollama is told of a model besides its weights; `template` is empty if unknown."""

    template: str
    parameters: Mapping[str, Any]
    licence: str = ""
    system: str = ""

    def text(self, file: str) -> str:
        """As a Modelfile beside the file."""
        lines = [f"FROM ./{file}"]
        if self.template:
            lines.append(f'TEMPLATE """{self.template}"""')
        for key, value in self.parameters.items():
            for one in value if isinstance(value, list) else [value]:
                shown = json.dumps(one, ensure_ascii=False) if isinstance(one, str) else one
                lines.append(f"PARAMETER {key} {shown}")
        return "\n".join(lines) + "\n"


def write_modelfile(source: Source, file: str, folder: Path) -> list[str]:
    """Write the Modelfile for `file`; returns what the user has to know."""
    spec, warnings = spec_of(source)
    (folder / MODELFILE).write_text(spec.text(file), encoding="utf-8")
    return warnings


def spec_of(source: Source) -> tuple[Spec, list[str]]:
    """What Ollama is told, and warnings where it cannot be told everything."""
    renderer = source.renderer
    window = Layout(source.config).window
    names = [renderer.decode([token], keep_control=True) for token in stops(source)]
    parameters = {"stop": [name for name in names if name], "num_ctx": min(window, _LONGEST)}
    style = style_of(renderer)
    gap = gap_template(renderer)
    if style is not None:
        chat = style.go.replace("EOS", _end(renderer))
        whole = f"{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{chat}{{{{ end }}}}" if gap else chat
        return Spec(whole, parameters), []
    warning = (
        "The model's chat template is none that codetune can write for Ollama (known: "
        f"{', '.join(style.name for style in STYLES)})"
    )
    if gap:
        plain = f"{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"
        return Spec(plain, parameters), [f"{warning}: only completions and gaps are set up there."]
    return Spec("{{ .Prompt }}", parameters), [f"{warning}: only completions are set up there."]


def style_of(renderer: Renderer) -> Style | None:
    """The style in which the model's chat template writes every conversation that it takes."""
    written = [_rendered(renderer, talk) for talk in _TALKS]
    if written[0] is None:
        return None
    begin = "" if renderer.bos_id is None else renderer.decode([renderer.bos_id], keep_control=True)
    for style in STYLES:
        expected = [style.write(talk, _end(renderer)) for talk in _TALKS]
        same = [
            text is None or text.removeprefix(begin) == wanted
            for text, wanted in zip(written, expected, strict=True)
        ]
        if all(same):
            return style
    return None


def gap_template(renderer: Renderer) -> str:
    """How the model fills a gap, as an Ollama template with `.Prompt` and `.Suffix`; or ''."""
    fim = renderer.fim
    if fim is None:
        return ""
    one, two, three = fim.family.prefix, fim.family.suffix, fim.family.middle
    before, after = "{{ .Prompt }}", "{{ .Suffix }}"
    if fim.family.leading_space:
        before = " " + before
    if renderer.order == "psm":
        return f"{one}{before}{two}{after}{three}"
    if renderer.order == "spm":
        return f"{one}{two}{after}{three}{before}"
    return f"{two}{after}{one}{before}{three}"


def _rendered(renderer: Renderer, talk: list[dict[str, str]]) -> str | None:
    """What the template writes; None where it takes no such conversation."""
    try:
        ids = renderer.chat(talk)
    except ModelError:
        return None
    return renderer.decode(ids, keep_control=True)


def _end(renderer: Renderer) -> str:
    return renderer.decode([renderer.eos_id], keep_control=True)


__all__ = ["MODELFILE", "Spec", "spec_of", "write_modelfile"]
