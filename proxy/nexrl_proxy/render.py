"""Messages to token ids: the model's own chat template and tokenizer, nothing else of the model.

Reads `tokenizer.json`, `tokenizer_config.json`, the template and `config.json` of a Hugging Face model directory.
Which tokens a turn needs beyond those a session already holds is decided by `prompting`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from nexrl.errors import ConfigError
from nexrl.records import Int32s
from nexrl_proxy.conversation import remember
from nexrl_proxy.encoding import Encoder
from nexrl_proxy.errors import ApiError, too_long, unsupported
from nexrl_proxy.fitting import fit_of
from nexrl_proxy.messages import Message
from nexrl_proxy.template import REFUSALS, Template, read_json, sources_of
from nexrl_proxy.text import Vocabulary

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
MUCH = 8
"""Characters a token: text with more of them for each token of the context hardly fits."""
PIECE = 4096
"""Characters of such text that are looked at in one go."""
TAIL = 8
"""Tokens; no opening that a parser looks for is longer."""
MOST_REMEMBERED = 1024
MOST_PROMPTS = 256
RESERVED = frozenset(
    {
        *("conversations", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "return_assistant_tokens_mask", *SPECIAL),
    }
)


class Renderer:
    """A model's template and tokenizer."""

    def __init__(
        self, directory: Path, *, markers: frozenset[str] = frozenset(), endings: frozenset[str] = frozenset()
    ) -> None:
        """Load from `directory`.

        `markers` are tokens shown as text even where the tokenizer calls them special; `endings` are tokens that end a
        turn besides those the model's files name. Raises ConfigError naming the file that is missing or unusable.
        """
        settings = read_json(directory / "tokenizer_config.json", {})
        config = read_json(directory / "config.json", None)
        self._special_tokens = _special_tokens(settings)
        self._template = Template(sources_of(directory), self._special_tokens)
        self._fit = fit_of(lambda probe: self._template.render(probe, tools=None, kwargs={}, generate=True))
        self._encoder = Encoder(directory / "tokenizer.json")
        self._remembered: OrderedDict[bytes, str] = OrderedDict()
        self._prompts: OrderedDict[bytes, Int32s] = OrderedDict()
        self.eos = self._eos(directory, config, markers) | self._ids_of(endings)
        special = {token.id for token in self._encoder.added if token.special and token.text not in markers}
        self.vocabulary = Vocabulary(self._encoder.tokenizer, special | self.eos)
        text_config: dict[str, Any] = config.get("text_config", config)
        self.vocabulary_size: int = text_config.get("vocab_size") or self.tokenizer.get_vocab_size()
        self._may_exceed = self._encoder.largest >= self.vocabulary_size
        self.context: int = text_config.get("max_position_embeddings") or _no_context(directory)

    @property
    def template(self) -> str:
        """The chat template's source."""
        return self._template.source

    @property
    def tokenizer(self) -> Any:
        return self._encoder.tokenizer

    def render(
        self, messages: Sequence[Message], *, tools: list[Any] | None, kwargs: dict[str, Any], generate: bool
    ) -> str:
        """Return the template's text for `encode`; raises ApiError where the template refuses the messages."""
        if refused := RESERVED & kwargs.keys():
            raise unsupported("chat_template_kwargs", f"chat_template_kwargs.{min(refused)} is set by the proxy itself")
        said, tools, kwargs = self._encoder.shield([self._fit(messages), tools, kwargs])
        try:
            return self._template.render(said, tools=tools, kwargs=kwargs, generate=generate)
        except REFUSALS as error:
            raise ApiError(f"the model's chat template refuses these messages: {error}", param="messages") from error

    def prompt(self, messages: Sequence[Message], *, tools: list[Any] | None, kwargs: dict[str, Any]) -> Int32s:
        """Return the ids of a conversation with its generation prompt; raises ApiError.

        The rollouts of a group begin with the same one, so the last ones are remembered: do not change what you get.
        """
        key = blake2b(msgspec.json.encode([messages, tools, kwargs]), digest_size=16).digest()
        ids = self._prompts.get(key)
        if ids is None:
            ids = self.encode(self.render(messages, tools=tools, kwargs=kwargs, generate=True))
        remember(self._prompts, key, ids, most=MOST_PROMPTS)
        return ids

    def remembered(self, setting: bytes, render: Callable[[], str]) -> str:
        """Return what was rendered under a digest before, or render it; without a digest nothing is remembered."""
        text = self._remembered.get(setting)
        if text is None:
            text = render()
            if setting:
                remember(self._remembered, setting, text, most=MOST_REMEMBERED)
        return text

    def encode(self, text: str, *, behind: bool = False) -> Int32s:
        """Return a rendered text's token ids; the template has written the special tokens.

        `behind` tokens that are there, nothing is put before its first word.
        """
        if len(text) > MUCH * self.context:
            self._refuse_what_is_longer(text)
        ids = self._encoder.encode(text, behind=behind)
        if self._may_exceed and ids and max(ids) >= self.vocabulary_size:
            raise ApiError(
                f"the tokenizer gives id {max(ids)} and the model knows {self.vocabulary_size}: "
                "--model must be the directory of the model the engine serves",
                status=500,
                kind="server_error",
            )
        return ids

    def _refuse_what_is_longer(self, text: str) -> None:
        """Raise ApiError once the pieces of a text are more tokens than two contexts: nobody waits for the rest of it.

        What a cut between pieces adds is far less than a context.
        """
        tokens = 0
        for start in range(0, len(text), PIECE):
            tokens += len(self.tokenizer.encode(text[start : start + PIECE], add_special_tokens=False).ids)
            if tokens > 2 * self.context + PIECE:
                raise too_long(tokens, self.context, at_least=True)

    def encode_raw(self, text: str, *, behind: bool = False) -> Int32s:
        """Return the token ids of text that no template has seen: what reads as a control token in it is one."""
        return self.encode(self._encoder.unmarked(text), behind=behind)

    def shield(self, text: str) -> str:
        """Return what people said, for `encode` as part of a rendered text: without control tokens."""
        return self._encoder.shield(text)

    def unshield(self, text: str) -> str:
        """Return text as people said it."""
        return self._encoder.unshield(text)

    def control_at(self, text: str) -> str:
        """Return the control token that a rendered text begins with, or ""."""
        return self._encoder.control_at(text)

    def control_ending(self, text: str) -> str:
        """Return the control token that a rendered text ends with, or ""."""
        return self._encoder.control_ending(text)

    def literal(self, token: int) -> str:
        """Return one token as text, special tokens included."""
        return self.vocabulary.literal(token)

    def text(self, ids: Sequence[int]) -> str:
        """Return what sampled ids say, a stop string at the end included."""
        decoder = self.vocabulary.decoder()
        return decoder.push(ids) + decoder.finish()

    def spelled(self, ids: Sequence[int]) -> bytes:
        """Return all that ids spell, special tokens included."""
        return b"".join(self.vocabulary.shown(token).raw for token in ids)

    def tail(self, ids: Sequence[int], *, end: int | None = None) -> str:
        """Return the text of the last few ids, up to `end`."""
        end = len(ids) if end is None else end
        return "".join(map(self.vocabulary.literal, ids[max(0, end - TAIL) : end]))

    def _ids_of(self, texts: frozenset[str]) -> frozenset[int]:
        return frozenset(token for text in texts if (token := self.tokenizer.token_to_id(text)) is not None)

    def _eos(self, directory: Path, config: dict[str, Any], markers: frozenset[str]) -> frozenset[int]:
        named = self._special_tokens.get("eos_token")
        generation = read_json(directory / "generation_config.json", {})
        ids: set[int | None] = {self.tokenizer.token_to_id(named)} if named and named not in markers else set()
        for source in (config, generation):
            value = source.get("eos_token_id")
            ids |= set(value) if isinstance(value, list) else {value}
        return frozenset(token for token in ids if token is not None)


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    found = {name: settings.get(name) for name in SPECIAL}
    contents = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: token for name, token in contents.items() if isinstance(token, str)}


def _no_context(directory: Path) -> int:
    raise ConfigError(f"--model: {directory}/config.json has no max_position_embeddings: the context is not known")
