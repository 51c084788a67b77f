"""Which parser a completion gets: by name, or from what the chat template writes.

Recognising a template is a guess from the markup in it. Ambiguous are: a template without tools in it (none is chosen);
Llama 3's calls, which have no markup (known by the header tokens and `"parameters": ` beside them); DeepSeek's and
Mistral's two layouts each, which are all read whichever is chosen and differ in how a call is forced. Where the guess
is wrong, name the format.
"""

from nexrl.errors import ConfigError
from nexrl_proxy.parsers import (
    Parser,
    ToolFormat,
    Tools,
    deepseek,
    glm,
    harmony,
    hermes,
    invoke,
    kimi,
    llama3,
    mistral,
    plain,
    pythonic,
    qwen3_coder,
    think,
)

# The first whose evidence a template holds is chosen: a format that is another's special case stands before it.
_FORMATS: tuple[ToolFormat, ...] = (
    harmony.FORMAT,
    invoke.DEEPSEEK,
    invoke.MINIMAX,
    kimi.FORMAT,
    deepseek.V3,
    deepseek.V31,
    mistral.NAMED,
    mistral.ARRAY,
    glm.FORMAT,
    qwen3_coder.FORMAT,
    hermes.FORMAT,
    llama3.FORMAT,
    pythonic.FORMAT,
    plain.FORMAT,
)
TOOL_FORMATS: dict[str, ToolFormat] = {known.name: known for known in _FORMATS}
REASONING_TAGS: dict[str, think.Tags] = {"mistral": think.MISTRAL, "think": think.THINK}
TOOL_PARSERS = ("auto", *TOOL_FORMATS)
REASONING_PARSERS = ("auto", "none", harmony.NAME, *REASONING_TAGS)


class Parsers:
    """The parsers a model's completions are read with."""

    def __init__(self, *, tools: str = "auto", reasoning: str = "auto", template: str) -> None:
        """Choose by name, or `auto`: from the chat template. Raises ConfigError for what does not exist or agree."""
        if tools not in TOOL_PARSERS:
            raise ConfigError(f"--tool-parser {tools}: choose from {', '.join(TOOL_PARSERS)}")
        if reasoning not in REASONING_PARSERS:
            raise ConfigError(f"--reasoning-parser {reasoning}: choose from {', '.join(REASONING_PARSERS)}")
        self.tools = tool_format_of(template) if tools == "auto" else tools
        self.reasoning = reasoning_of(template, self.tools) if reasoning == "auto" else reasoning
        if (self.tools == harmony.NAME) != (self.reasoning == harmony.NAME):
            raise ConfigError(
                f"--tool-parser {self.tools} with --reasoning-parser {self.reasoning}: harmony is one format for both; "
                "use harmony, or auto, for both"
            )
        self._format = TOOL_FORMATS[self.tools]
        self.tags = REASONING_TAGS.get(self.reasoning)
        """What stands around reasoning, where the answer's own markup does not part them."""

    def parser(self, *, with_tools: bool, prompt_end: str, tools: Tools = None) -> Parser:
        """Return a fresh parser.

        `prompt_end`, the last few tokens as text, tells whether the prompt already opened the reasoning. `tools`, as
        the request brought them, tell the types of arguments that a format writes as bare text.
        """
        if self.tools == harmony.NAME:
            return harmony.parser(with_tools=with_tools, prompt_end=prompt_end)
        answer = (self._format if with_tools else plain.FORMAT).parser(tools)
        if self.tags is None:
            return answer
        return think.ThinkParser(answer, inside=self.tags.open_at(prompt_end), tags=self.tags)

    def forced(self, name: str | None, *, prompt_end: str = "") -> str | None:
        """Return the text a turn begins with when it must call a tool: the tool `name`, or any.

        It ends where the name, or the arguments of the named tool, are sampled. Encoded behind the generation prompt
        and fed to the parser before what is sampled, it gives the whole call. Reasoning that the prompt opened is
        closed first. None where the format cannot begin a call.
        """
        begun = self._format.forced(name)
        if begun is not None and self.tags and self.tags.open_at(prompt_end):
            return f"{self.tags.closing}\n\n{begun}"
        return begun

    @property
    def begun_call(self) -> str | None:
        """The text with which a reply begins that calls some tool, told apart from an answer by the marker in it.

        None where calls are not known (`none`), where they are bare JSON, as an answer may be (`llama3`), and where
        other text always stands before them (`harmony`).
        """
        begun = None if self.tools == harmony.NAME else self._format.forced(None)
        return begun if begun and any(marker in begun for marker in self._format.markers) else None

    @property
    def markers(self) -> frozenset[str]:
        """Tokens that are text to the parser even where the tokenizer calls them special."""
        return self._format.markers | (self.tags.markers if self.tags else frozenset())

    @property
    def endings(self) -> frozenset[str]:
        """Tokens at which the engine must stop, besides those the model's own files name; none is a marker."""
        return self._format.endings


def tool_format_of(template: str) -> str:
    """Return the name of the format in which a chat template writes tool calls."""
    shown = (known for known in _FORMATS if known.evidence and all(part in template for part in known.evidence))
    return next(shown, plain.FORMAT).name


def reasoning_of(template: str, tools: str) -> str:
    """Return the name of the reasoning parser for a chat template whose tool format is known."""
    if tools == harmony.NAME:
        return harmony.NAME
    tagged = (name for name, tags in REASONING_TAGS.items() if tags.opening in template or tags.closing in template)
    return next(tagged, "none")
