"""Messages to token ids: the model's own chat template and tokenizer, nothing else of the model.

Reads `tokenizer.json`, `tokenizer_config.json`, the template and `config.json` of a Hugging Face model directory.
Which tokens a turn needs beyond those a session already holds is decided by `prompting`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from nexrl.errors import ConfigError
from nexrl.records import Int32s
from nexrl_proxy.errors import ApiError, unsupported
from nexrl_proxy.messages import Message
from nexrl_proxy.text import Vocabulary

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
RESERVED = frozenset(
    {
        *("conversations", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "return_assistant_tokens_mask", *SPECIAL),
    }
)


class Renderer:
    """A model's template and tokenizer."""

    def __init__(self, directory: Path, *, markers: frozenset[str] = frozenset()) -> None:
        """Load from `directory`; `markers` are tokens shown as text even where the tokenizer calls them special.

        Raises ConfigError naming the file that is missing or unusable.
        """
        settings = _json(directory / "tokenizer_config.json", {})
        config = _json(directory / "config.json", None)
        self.template = template_of(directory)
        self.tokenizer = _tokenizer(directory / "tokenizer.json")
        self._special_tokens = _special_tokens(settings)
        self.eos = self._eos(directory, config, markers)
        added = self.tokenizer.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special and token.content not in markers}
        self.vocabulary = Vocabulary(self.tokenizer, special | self.eos)
        text_config: dict[str, Any] = config.get("text_config", config)
        self.vocabulary_size: int = text_config.get("vocab_size") or self.tokenizer.get_vocab_size()
        self.context: int = text_config.get("max_position_embeddings") or _no_context(directory)

    def render(
        self, messages: Sequence[Message], *, tools: list[Any] | None, kwargs: dict[str, Any], generate: bool
    ) -> str:
        """Return the template's text; raises ApiError where the template refuses the messages."""
        if refused := RESERVED & kwargs.keys():
            raise unsupported("chat_template_kwargs", f"chat_template_kwargs.{min(refused)} is set by the proxy itself")
        try:
            rendered, _ = render_jinja_template(
                conversations=[list(messages)],
                tools=tools,
                chat_template=self.template,
                add_generation_prompt=generate,
                **self._special_tokens,
                **kwargs,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ApiError(f"the model's chat template refuses these messages: {error}", param="messages") from error
        return rendered[0]

    def encode(self, text: str) -> Int32s:
        """Return the text's token ids; the template has written the special tokens."""
        ids = Int32s(self.tokenizer.encode(text, add_special_tokens=False).ids)
        if ids and max(ids) >= self.vocabulary_size:
            raise ApiError(
                f"the tokenizer gives id {max(ids)} and the model knows {self.vocabulary_size}: "
                "--model must be the directory of the model the engine serves",
                status=500,
                kind="server_error",
            )
        return ids

    def literal(self, token: int) -> str:
        """Return one token as text, special tokens included."""
        return self.vocabulary.literal(token)

    def tail(self, ids: Sequence[int], length: int = 8) -> str:
        """Return the text of the last few ids."""
        return self.tokenizer.decode(list(ids[-length:]), skip_special_tokens=False)

    def _eos(self, directory: Path, config: dict[str, Any], markers: frozenset[str]) -> frozenset[int]:
        named = self._special_tokens.get("eos_token")
        generation = _json(directory / "generation_config.json", {})
        ids: set[int | None] = {self.tokenizer.token_to_id(named)} if named and named not in markers else set()
        for source in (config, generation):
            value = source.get("eos_token_id")
            ids |= set(value) if isinstance(value, list) else {value}
        return frozenset(token for token in ids if token is not None)


def _json(path: Path, default: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        if default is None:
            raise ConfigError(f"--model: {path} is missing; give a model directory in Hugging Face layout") from error
        return default
    except msgspec.DecodeError as error:
        raise ConfigError(f"--model: {path} is not JSON: {error}") from error


def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ConfigError(f"--model: {path} is missing; save the model's fast tokenizer there (save_pretrained)")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"--model: {path} cannot be read as a tokenizer: {error}") from error


def template_of(directory: Path) -> str:
    """Return a model directory's chat template; raises ConfigError where there is none."""
    settings = _json(directory / "tokenizer_config.json", {})
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = {item["name"]: item["template"] for item in template}.get("default")
    if not isinstance(template, str):
        raise ConfigError(
            f"--model: {directory} has no chat template; chat needs chat_template.jinja, "
            "or chat_template in tokenizer_config.json"
        )
    return template


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    found = {name: settings.get(name) for name in SPECIAL}
    contents = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: token for name, token in contents.items() if isinstance(token, str)}


def _no_context(directory: Path) -> int:
    raise ConfigError(f"--model: {directory}/config.json has no max_position_embeddings: the context is not known")
