"""The renderer: texts, fill-in-the-middle parts and chats → the token ids a base was trained on."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from codetune.errors import ModelError
from codetune.models.prompts.chat import ChatTemplate, Message, Piece
from codetune.models.prompts.families import FimTokens, fim_tokens, find_family
from codetune.models.prompts.healing import Beginning, ByteVocabulary, word_at_end
from codetune.models.prompts.plain import (
    full_tokenizer,
    markup_of,
    one_line,
    plain_tokenizer,
    valid,
    vocabulary_of,
)
from codetune.models.prompts.templates import (
    TEMPLATE_FILE,
    TemplateName,
    default_template,
    named_template,
)
from codetune.models.prompts.tokenizer_files import (
    TOKENIZER_FILES,
    Order,
    begin_of_text,
    broken,
    end_of_text,
    name_of,
    order_of,
    read_config,
)
from codetune.models.prompts.words import Ids, Places, token_bytes, words_of

Part = Sequence[int] | npt.NDArray[np.integer[Any]]

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|EOT|>", "<end_of_turn>")


@dataclass(frozen=True)
class Opening:
    """A prompt to fill a gap, as ids, and what the answer then begins with, if anything."""

    ids: list[int]
    beginning: Beginning | None = None
    healed: int = 0  # tokens that were left out of the prompt for it


class Renderer:
    """Renders for one base. Text never becomes a control token; only this class writes those."""

    def __init__(self, spec: dict[str, Any], config: dict[str, Any], template: str | None) -> None:
        """`spec` is a parsed tokenizer.json, `config` the tokenizer_config.json beside it."""
        self.markup = markup_of(spec)
        self._spec = spec
        self._plain = plain_tokenizer(spec)
        vocabulary = vocabulary_of(spec)
        self.vocab_size = max(vocabulary.values()) + 1
        family = find_family(vocabulary)
        self.eos_id = end_of_text(vocabulary, family.end_of_text if family else "", config)
        self.pad_id = vocabulary.get(name_of(config.get("pad_token")), self.eos_id)
        self.bos_id = begin_of_text(
            lambda: self._full.encode("", add_special_tokens=True).ids, vocabulary, config
        )
        self.fim: FimTokens | None = fim_tokens(vocabulary, family, self.eos_id) if family else None
        self.order: Order = order_of(config)  # in which the base fills gaps best
        self.fim_stops = self.fim.stops if self.fim else frozenset({self.eos_id})
        ends = {vocabulary[name] for name in _TURN_ENDS if name in self.markup}
        ends |= {vocabulary.get(name_of(config.get("eos_token")), self.eos_id)}
        self.chat_stops = self.fim_stops | ends
        self.has_chat_template = template is not None
        self.template = template or self._named(default_template(self.markup))
        self._template_names = {"eos_token": self._token_name(self.eos_id)} | {
            key: name_of(value) for key, value in config.items() if key.endswith("_token") and value
        }
        self._control = frozenset(self.markup.values())
        self._bytes = token_bytes(spec, self.vocab_size)
        added = {token["content"] for token in spec.get("added_tokens") or []}
        plain_added = not added <= self.markup.keys()
        self._words = words_of(spec, self._plain, self._bytes, plain_added)
        self._vocabulary = ByteVocabulary(self._bytes) if self._bytes is not None else None

    @classmethod
    def from_folder(cls, path: Path, template: Path | None = None) -> Renderer:
        """Read the tokenizer of a base's folder; its chat template, or the one in `template`.

        Raises:
            ModelError: there is no tokenizer.json, or one that cannot be read.
        """
        path = Path(path)
        if not (path / "tokenizer.json").is_file():
            raise ModelError(
                f"{path} holds no tokenizer.json.",
                advice="A base needs its fast tokenizer: load it once with transformers' "
                "AutoTokenizer and save_pretrained() into that folder.",
            )
        spec, config, names = (read_config(path / name) for name in TOKENIZER_FILES)
        config = names | config
        source = config.get("chat_template")
        file = template or path / TEMPLATE_FILE
        if file.is_file():
            source = file.read_text(encoding="utf-8")
        if isinstance(source, list):  # several named templates
            source = {t["name"]: t["template"] for t in source}.get("default")
        try:
            return cls(spec, config, source)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise broken(path / "tokenizer.json", error) from error
        except ModelError as error:
            raise ModelError(f"{path}: {error.message}", advice=error.advice) from error
        except Exception as error:  # tokenizers raises bare Exception
            raise broken(path / "tokenizer.json", error) from error

    @staticmethod
    def digest_of(path: Path) -> str:
        """SHA-256 of what a renderer reads from `path`: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name in (*TOKENIZER_FILES, TEMPLATE_FILE):
            if (path / name).is_file():
                digest.update(name.encode() + b"\0" + (path / name).read_bytes())
        return digest.hexdigest()[:16]

    def plain(self, text: str) -> list[int]:
        """The ids of `text` and nothing else; no text reaches a control token."""
        return list(self.plain_ids(text).tolist())

    def plain_ids(self, text: str) -> Ids:
        """`plain` as an array."""
        if self._words is not None and (found := self._words.ids(text)) is not None:
            return found
        return np.array(self._plain.encode(valid(text), add_special_tokens=False).ids, np.uint32)

    def plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`plain` for many texts at once, on the tokenizer's own threads."""
        texts = [valid(text) for text in texts]
        return [e.ids for e in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def plain_offsets(self, text: str) -> tuple[Ids, Places]:
        """The ids of `text`, as `plain` gives them, and the character at which each starts."""
        if self._words is not None and (found := self._words.encode(text)) is not None:
            return found
        encoding = self._plain.encode(valid(text), add_special_tokens=False)
        starts = [start for start, _ in encoding.offsets]
        return np.array(encoding.ids, np.uint32), np.array(starts, np.int64)

    def header(self, repo: str, path: str) -> list[int]:
        """The words that say where a file stands; none where the family has none."""
        if self.fim is None or self.fim.repo is None or self.fim.file is None:
            return []
        repo, path = one_line(repo), one_line(path)
        named = self.plain(repo + self.fim.family.after_repo)
        return [self.fim.repo, *named, self.fim.file, *self.plain(path + "\n")]

    def ntp(
        self, text: str, *, repo: str | None = None, path: str | None = None, ends_file: bool
    ) -> list[int]:
        """A whole file, or a piece of one; the end-of-text token follows only its last piece."""
        end = [self.eos_id] if ends_file else []
        return [*self.start(repo, path), *self.plain(text), *end]

    def start(self, repo: str | None, path: str | None, context: Part = ()) -> list[int]:
        """What stands before any text: begin-of-text where the base wants it, and the header.

        Other files (`context`, ids from `context_file`) stand between the repository's name and
        the path, as in Qwen2.5-Coder's repository-level pre-training.
        """
        start = [self.bos_id] if self.bos_id is not None else []
        if not len(context):
            return start + self.header(repo, path) if repo and path else start
        if self.fim is None or self.fim.repo is None or self.fim.file is None:
            return [*start, *context]
        if repo:
            named = one_line(repo) + self.fim.family.after_repo
            start += [self.fim.repo, *self.plain(named)]
        return [*start, *context, self.fim.file, *self.plain(one_line(path or "") + "\n")]

    def context_file(self, text: str, path: str | None = None) -> list[int]:
        """A text from elsewhere, to stand before the file at the cursor."""
        text = text if text.endswith("\n") else text + "\n"
        if self.fim is None or self.fim.file is None:
            return self.plain(text)
        return [self.fim.file, *self.plain(one_line(path or "") + "\n" + text)]

    def fim_prompt(
        self,
        prefix: str,
        suffix: str,
        *,
        repo: str | None = None,
        path: str | None = None,
        order: Order = "psm",
        context: Part = (),
    ) -> list[int]:
        """The prompt after which the base writes the middle.

        Raises:
            ModelError: the base has no FIM tokens.
        """
        fim = self._need_fim()
        if fim.family.leading_space and prefix:
            prefix = " " + prefix
        ids = self.plain(prefix), self.plain(suffix)
        parts = self.fim_parts(*ids, self.start(repo, path, context), order)
        return [i for part in parts for i in part]

    def fim_opening(
        self,
        prefix: str,
        suffix: str,
        *,
        begun: str = "",
        repo: str | None = None,
        path: str | None = None,
        context: Part = (),
    ) -> Opening:
        """The prompt in the base's own order; `begun` is what of the middle is there already.

        Where the middle follows the prefix, it begins with the word at the cursor written
        again (healing.py): learned and asked for as one text.

        Raises:
            ModelError: the base has no FIM tokens.
        """
        more: dict[str, Any] = {"repo": repo, "path": path, "context": context}
        if self.order == "psm":
            return Opening(self.fim_prompt(prefix, suffix, **more) + self.plain(begun))
        prefix += begun
        cut = self.cursor_word(prefix)
        ids = self.fim_prompt(prefix[:cut], suffix, order=self.order, **more)
        if cut == len(prefix) or self._vocabulary is None:
            return Opening(ids)
        beginning = Beginning(prefix[cut:], self._vocabulary)
        return Opening(ids, beginning, len(self.plain(prefix[cut:])))

    def fim_parts(self, prefix: Part, suffix: Part, start: Part, order: Order) -> list[Part]:
        """A prompt's ids, to be put end to end, from those that `plain` made of its sides."""
        fim = self._need_fim()
        one, two, three = [fim.prefix], [fim.suffix], [fim.middle]
        if order == "psm":
            return [start, one, prefix, two, suffix, three]
        if order == "spm":
            return [start, one, two, suffix, three, prefix]
        return [start, two, suffix, one, prefix, three]

    def fim_example(
        self,
        prefix: str,
        middle: str,
        suffix: str,
        *,
        repo: str | None = None,
        path: str | None = None,
        order: Order = "psm",
    ) -> tuple[list[int], int]:
        """A training example, and the index at which its answer starts.

        The answer is the middle; suffix first, it begins with the word at the cursor, as it
        will have to after `fim_opening`.
        """
        cut = len(prefix) if order == "psm" else self.cursor_word(prefix)
        ids = self.fim_prompt(prefix[:cut], suffix, repo=repo, path=path, order=order)
        return [*ids, *self.plain(prefix[cut:] + middle), self._need_fim().end], len(ids)

    def cursor_word(self, prefix: str) -> int:
        """The character at which the word at a prefix's end starts, which is written again."""
        return len(prefix) if self._vocabulary is None else word_at_end(self._plain, prefix)

    @property
    def fim_overhead(self) -> int:
        """Tokens of an example that are neither header nor text: the marks and the end."""
        return 5 if self._need_fim().family.leading_space else 4

    def fim_room(
        self, window: int, *, repo: str | None, path: str | None, context: Part = ()
    ) -> int:
        """Tokens that are left in `window` for prefix, suffix and middle together."""
        return window - self.fim_overhead - len(self.start(repo, path, context))

    def chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """A conversation by the chat template; `variables` (tools …) are passed on to it.

        Earlier answers get the ids with which they were learned and generated.

        Raises:
            ModelError: the template is broken or refuses these messages.
        """
        variables["add_generation_prompt"] = add_generation_prompt
        if any(message.get("role") == "assistant" for message in messages):
            try:
                return self._ids_of(self._chat.answered(messages, **variables)[0])
            except ModelError:  # nothing can be learned from these messages, but they can be read
                pass
        return self._ids_of(map(Piece, self._chat.parts(messages, **variables)))

    def conversation(
        self, messages: Sequence[Message], **variables: Any
    ) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """A conversation to learn from: its ids up to the last answer's end, and which are answers.

        An answer begins where the generation prompt ends and reaches over the token that ends
        its turn; the last one always has such a token.

        Raises:
            ModelError: the template refuses these messages, or does not show its answers.
        """
        pieces, ended = self._chat.answered(messages, **variables)
        while pieces and pieces[-1].answer is None:
            pieces.pop()
        if ended and not ended[-1]:
            pieces.append(Piece(self.eos_id, len(ended) - 1))
        parts = [
            self.plain_ids(value) if isinstance(value, str) else np.array([value], np.uint32)
            for value, _ in pieces
        ]
        answers = [piece.answer is not None for piece in pieces]
        loss = np.repeat(np.array(answers, np.bool_), [len(part) for part in parts])
        return np.concatenate([np.empty(0, np.uint32), *parts]), loss

    def with_template(self, name: TemplateName) -> Renderer:
        """The same renderer with another chat template.

        auto is the base's own one, ChatML if the base has its tokens, plain turns otherwise.

        Raises:
            ModelError: the base has no template of its own, or no tokens for ChatML.
        """
        if name == "base" and not self.has_chat_template:
            raise ModelError(
                "This base has no chat template of its own.",
                advice="Set dataset.template to auto, chatml, alpaca, llama2 or plain.",
            )
        if name == "chatml" and default_template(self.markup) != "chatml":
            raise ModelError(
                "This base has no tokens <|im_start|> and <|im_end|>, which ChatML needs.",
                advice="Set dataset.template to auto, alpaca, llama2 or plain.",
            )
        if name in ("auto", "base"):
            return self
        other = copy.copy(self)
        other.__dict__.pop("_chat", None)
        other.template = self._named(name)
        return other

    def _ids_of(self, pieces: Iterable[Piece]) -> list[int]:
        parts = (self.plain(v) if isinstance(v, str) else [v] for v, _ in pieces)
        return [i for part in parts for i in part]

    def _named(self, name: str) -> str:
        bos = "" if self.bos_id is None else self._token_name(self.bos_id)
        return named_template(name, bos=bos, eos=self._token_name(self.eos_id))

    def _token_name(self, token: int) -> str:
        return next((name for name, number in self.markup.items() if number == token), "")

    def decode(self, ids: Sequence[int], *, keep_control: bool = False) -> str:
        """The text of `ids`; control tokens are left out unless wanted."""
        if not keep_control:
            ids = [i for i in ids if i not in self._control]
        return str(self._full.decode([int(i) for i in ids], skip_special_tokens=False))

    def decode_bytes(self, ids: Part) -> bytes:
        """The UTF-8 bytes of `ids` without control tokens; fast, for checking whole corpora."""
        if self._bytes is not None:
            return self._bytes.join(np.asarray(ids, np.int64))
        return self.decode(list(ids)).encode()

    @cached_property
    def _full(self) -> Tokenizer:
        return full_tokenizer(self._spec)

    @cached_property
    def _chat(self) -> ChatTemplate:
        return ChatTemplate(self.template, self.markup, self._template_names, self.chat_stops)

    def _need_fim(self) -> FimTokens:
        if self.fim is None:
            raise ModelError(
                "This base has no fill-in-the-middle tokens.",
                advice="Use a base that has (nano, Qwen2.5-Coder, StarCoder2, CodeLlama, "
                "DeepSeek-Coder), or ask for plain completion.",
            )
        return self.fim
