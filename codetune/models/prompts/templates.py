"""The chat templates that codetune brings along, for bases that have none of their own.

Sources: ChatML (OpenAI's chat markup, as Qwen writes it); the Alpaca prompt
(github.com/tatsu-lab/stanford_alpaca); Llama 2's (`chat_completion` in Meta's reference code,
arXiv 2307.09288). Each ends an answer with the base's end-of-text token, which is written into
the template by name: a tuned model's folder can then be served by any program that reads it.
"""

from __future__ import annotations

from typing import Literal

TEMPLATE_FILE = "chat_template.jinja"  # beside weights: how their conversations are written
TemplateName = Literal["auto", "base", "chatml", "alpaca", "llama2", "plain"]

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PLAIN = (
    "{{ BOS }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ EOS }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_ALPACA = (
    "{{ BOS }}{% if messages and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% else %}Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request.{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '\n\n### Response:\n' }}{{ message['content'] }}{{ EOS }}"
    "{% elif message['role'] != 'system' %}"
    "{{ '\n\n### Instruction:\n' }}{{ message['content'] }}"
    "{% elif not loop.first %}{{ raise_exception('a system message has to be the first') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}"
)
_LLAMA2 = (
    "{% set system = '' %}{% set turns = messages %}"
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant have to take turns, the user first') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ BOS }}[INST] {% if loop.first %}{{ system }}{% endif %}{{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }} {{ EOS }}{% endif %}{% endfor %}"
)
_SOURCES = {"chatml": _CHATML, "plain": _PLAIN, "alpaca": _ALPACA, "llama2": _LLAMA2}


def named_template(name: str, *, bos: str, eos: str) -> str:
    """The Jinja source of a template; `bos` and `eos` are token names, `bos` may be empty."""
    source = _SOURCES[name]
    return source.replace("{{ BOS }}", _literal(bos)).replace("{{ EOS }}", _literal(eos))


def _literal(token: str) -> str:
    if not token:
        return ""
    quoted = token.replace("\\", "\\\\").replace("'", "\\'")
    return "{{ '" + quoted + "' }}"


def default_template(markup: dict[str, int]) -> str:
    """The name of the template for a base without one of its own; `markup` are its tokens."""
    return "chatml" if {"<|im_start|>", "<|im_end|>"} <= markup.keys() else "plain"
