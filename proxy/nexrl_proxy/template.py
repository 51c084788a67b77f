"""Chat templates: the Jinja that a model directory brings, in the environment Hugging Face templates are written for.

The environment is that of transformers' `apply_chat_template`, which is not imported: it takes seconds to load.
Tests compare the two. Sandboxed, since a model directory may come from anywhere.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import msgspec
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from nexrl.errors import ConfigError

REFUSALS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template raises at messages it cannot render."""
_LAYOUT = "give a model directory in Hugging Face layout"


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant said; rendered, it is its content."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Template:
    """A model's chat templates: the default one, and where there is one, that for requests with tools."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """Compile; raises ConfigError where the Jinja is wrong."""
        self.source = sources["default"]
        self._special_tokens = dict(special_tokens)
        try:
            self._compiled = {name: _environment().from_string(source) for name, source in sources.items()}
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"--model: the chat template is not Jinja: line {error.lineno}: {error}") from error
        for compiled in self._compiled.values():
            compiled.globals = dict(compiled.globals)  # Jinja's is a ChainMap, slow to copy for each rendering

    def render(self, messages: list[Any], *, tools: list[Any] | None, kwargs: Mapping[str, Any], generate: bool) -> str:
        """Return the text; raises one of `REFUSALS`."""
        template = self._compiled.get("tool_use" if tools else "default") or self._compiled["default"]
        given = {"tools": tools, "documents": None, "add_generation_prompt": generate, **self._special_tokens, **kwargs}
        told = list(map(_with_thinking, messages))
        try:
            return template.render(messages=told, **given)
        except REFUSALS:
            if told == messages:
                raise
            return template.render(messages=messages, **given)  # gpt-oss refuses thinking and text beside a call


def refuse_no_model(directory: Path) -> None:
    """Raise ConfigError where a directory is not there, or is none of a model."""
    if not directory.is_dir():
        raise ConfigError(f"--model: no directory {directory}; {_LAYOUT}")
    if not (directory / "config.json").is_file():
        raise ConfigError(f"--model: no config.json in {directory}; {_LAYOUT}")


def template_of(directory: Path) -> str:
    """Return a model directory's default chat template; raises ConfigError where there is none."""
    return sources_of(directory)["default"]


def sources_of(directory: Path) -> dict[str, str]:
    """Return a model directory's chat templates by name; raises ConfigError where there is none."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text()}
    template = read_json(directory / "tokenizer_config.json", {}).get("chat_template")
    if isinstance(template, list):
        named = {item["name"]: item["template"] for item in template}
    else:
        named = {"default": template}
    if not isinstance(named.get("default"), str):
        raise ConfigError(
            f"--model: {directory} has no chat template; chat needs chat_template.jinja, "
            "or chat_template in tokenizer_config.json"
        )
    return named


def read_json(path: Path, default: Any) -> Any:
    """Return a file of a model directory; `default` where it is missing, unless that is None; raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        if default is None:
            raise ConfigError(f"--model: {path} is missing; {_LAYOUT}") from error
        return default
    except msgspec.DecodeError as error:
        raise ConfigError(f"--model: {path} is not JSON: {error}") from error


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a short way to what templates do most: read a field of a message."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _OF_DICTS:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) in _JINJAS_OWN and not attribute.startswith("_") and hasattr(obj, attribute):
            return getattr(obj, attribute)
        if type(obj) is str and attribute in _OF_TEXT:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


_JINJAS_OWN = (LoopContext, Namespace)
_OF_DICTS = frozenset(dir(dict))
_OF_TEXT = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))
"""Methods that reach nothing; formatting may."""


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals.update(functions)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which no model was trained on."""
    options = (ensure_ascii, indent, separators, sort_keys)
    try:
        packed = msgspec.msgpack.encode(value)  # unlike JSON it has infinities
    except (TypeError, ValueError, OverflowError):  # text of Jinja's own, an integer of more than 64 bits
        return _written(value, *options)
    return _written_again(packed, *options)


@lru_cache(maxsize=256)
def _written_again(value: bytes, *options: Any) -> str:
    """Return what is given as MessagePack; tools come again with every conversation."""
    return _written(msgspec.msgpack.decode(value), *options)


def _written(
    value: Any, ensure_ascii: bool, indent: int | None, separators: tuple[str, str] | None, sort_keys: bool
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _with_thinking(message: Any) -> Any:
    """Return a message whose reasoning also has the name by which gpt-oss's template calls it, as transformers does."""
    match message:
        case {"reasoning_content": str(reasoning)}:
            return {"thinking": reasoning, **message}
        case _:
            return message


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
