"""Which parser a completion gets: by name, or from what the chat template writes."""

from nexrl.errors import ConfigError
from nexrl_proxy.parsers import Parser, ParserFactory, hermes, think
from nexrl_proxy.parsers.plain import PlainParser

TOOL_PARSERS: dict[str, ParserFactory] = {"hermes": hermes.HermesParser, "none": PlainParser}
REASONING_PARSERS = ("none", "think")


class Parsers:
    """The parsers a model's completions are read with."""

    def __init__(self, *, tools: str, reasoning: str, template: str) -> None:
        if tools not in ("auto", *TOOL_PARSERS):
            raise ConfigError(f"--tool-parser {tools}: choose from auto, {', '.join(TOOL_PARSERS)}")
        if reasoning not in REASONING_PARSERS:
            raise ConfigError(f"--reasoning-parser {reasoning}: choose from {', '.join(REASONING_PARSERS)}")
        self.tools = _of_template(template) if tools == "auto" else tools
        self.reasoning = reasoning

    def parser(self, *, with_tools: bool, prompt_end: str) -> Parser:
        """Return a fresh parser; `prompt_end` tells whether the prompt already opened the reasoning."""
        answer = TOOL_PARSERS[self.tools if with_tools else "none"]()
        if self.reasoning == "none":
            return answer
        return think.ThinkParser(answer, inside=prompt_end.rstrip().endswith(think.OPENING))

    @property
    def markers(self) -> frozenset[str]:
        """Tokens that are text to a parser even where the tokenizer calls them special."""
        return frozenset({hermes.OPENING, hermes.CLOSING, think.OPENING, think.CLOSING})


def _of_template(template: str) -> str:
    return "hermes" if hermes.OPENING in template else "none"
