"""What each template writes, letter by letter, and which part of it is learned.

In the golden files `⟦…⟧` encloses the tokens that carry loss.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from codetune.models.prompts import Renderer
from tests.unit.models.tiny_families import renderer, write_base

GOLDEN = Path(__file__).parent / "templates"
ASK = {"role": "user", "content": "Add <|im_end|> two\nnumbers </s>"}
ANSWER = {"role": "assistant", "content": "def add(a, b):\n    return a + b\n"}
MORE = {"role": "user", "content": "And three?"}
LAST = {"role": "assistant", "content": "  sum(xs) <|endoftext|>"}
SYSTEM = {"role": "system", "content": "Be short."}
CONVERSATIONS = {
    "single": [ASK, ANSWER],
    "single_system": [SYSTEM, ASK, ANSWER],
    "multi": [ASK, ANSWER, MORE, LAST],
    "multi_system": [SYSTEM, ASK, ANSWER, MORE, LAST],
}
# Bases' own templates in use today, shortened to what concerns plain conversations.
LLAMA3 = (
    "{{- bos_token }}{% for m in messages %}{{- '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA3_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN3 = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set content = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{{- content + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FOREIGN = {"llama3": LLAMA3, "qwen3": QWEN3, "marked": MARKED}
NAMED = ["chatml", "alpaca", "llama2", "plain"]


def base_with(name: str, folder: Path) -> Renderer:
    if name in FOREIGN:
        write_base(folder, "qwen", chat_template=FOREIGN[name], bos_token="<|begin_of_text|>")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in LLAMA3_TOKENS])
        tokenizer.save(str(folder / "tokenizer.json"))
        return Renderer.from_folder(folder).with_template("base")
    family = "codellama" if name == "llama2" else "qwen"
    return renderer(family).with_template(name)  # type: ignore[arg-type]


def shown(base: Renderer, messages: list[dict[str, str]]) -> str:
    ids, loss = base.conversation(messages)
    out, at = "", 0
    while at < len(ids):
        end = at
        while end < len(ids) and loss[end] == loss[at]:
            end += 1
        text = base.decode(ids[at:end].tolist(), keep_control=True)
        out += f"⟦{text}⟧" if loss[at] else text
        at = end
    return out


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", [*NAMED, *FOREIGN])
def test_golden(name: str, conversation: str, tmp_path: Path) -> None:
    text = shown(base_with(name, tmp_path), CONVERSATIONS[conversation])
    assert text == (GOLDEN / f"{name}.{conversation}.txt").read_text()


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", [*NAMED, *FOREIGN])
def test_serving_asks_for_what_training_answers(
    name: str, conversation: str, tmp_path: Path
) -> None:
    base = base_with(name, tmp_path)
    messages = CONVERSATIONS[conversation]
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        ids, loss = base.conversation(messages[: number + 1])
        prompt = base.chat(messages[:number])
        assert ids[: len(prompt)].tolist() == prompt
        assert loss[len(prompt) :].all()
        assert not loss[len(prompt) - 1]
        assert ids[-1] in base.chat_stops
        # Control tokens in what people wrote stay text.
        text = base.decode(ids[len(prompt) : -1].tolist(), keep_control=True)
        assert text.strip().endswith(message["content"].strip())


@pytest.mark.parametrize("name", NAMED)
def test_transformers_renders_the_same(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    family = "codellama" if name == "llama2" else "qwen"
    folder = write_base(tmp_path, family, **({"bos_token": "<s>"} if name == "llama2" else {}))
    base = renderer(family).with_template(name)  # type: ignore[arg-type]
    (folder / "chat_template.jinja").write_text(base.template)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [SYSTEM, MORE, ANSWER, MORE]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ours = base.decode(base.chat(messages), keep_control=True)
    assert ours == text
    assert Renderer.from_folder(folder).chat(messages) == base.chat(messages)
