"""Harmony, the format of gpt-oss: a turn is messages on channels, and reasoning and tool calls are two of them.

`<|channel|>analysis<|message|>REASONING<|end|><|start|>assistant<|channel|>commentary to=functions.NAME
<|constrain|>json<|message|>{...}<|call|>`, or `<|channel|>final<|message|>CONTENT<|return|>`. The recipient may also
stand before the channel. Commentary to nobody is content. `<|call|>` and `<|return|>` end the turn, so a call usually
ends with the text. Two messages of one kind are parted by a blank line; text outside of messages is content.
"""

import re

from nexrl_proxy.parsers import Content, Event, Malformed, Parser, Reasoning, ToolFormat
from nexrl_proxy.parsers.scan import JSON_STRINGS, SPACE, Until, any_of, partial
from nexrl_proxy.parsers.written import named_call

NAME = "harmony"
START, CHANNEL, MESSAGE, CONSTRAIN, END = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>"
ENDINGS = ("<|call|>", "<|return|>")
FUNCTIONS = "functions."
_STOPS = (START, CHANNEL, END, *ENDINGS)
_STOP = any_of(_STOPS)
_HEADS = (START, CHANNEL, "to=")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


class HarmonyParser:
    """Reads a turn whose first message's header begins where the prompt ends, or before."""

    def __init__(self, *, with_tools: bool = True, prompt_end: str = "") -> None:
        self._with_tools = with_tools
        self._place = "between"
        self._tail = ""
        """It may be the beginning of markup."""
        self._kind: type[Content | Reasoning] = Content
        self._seen: set[type[Event]] = set()
        self._parted = False
        self._head = ""
        """The header of the message being read, as it was written."""
        self._until = Until(_STOPS)
        if prompt_end.endswith(MESSAGE):
            self._enter(prompt_end.rpartition(START)[2].removesuffix(MESSAGE))
            self._head = ""

    def push(self, text: str) -> list[Event]:
        if self._place == "body" and not self._tail and text and "<" not in text:
            return [self._shown(text)]
        events: list[Event] = []
        while text:
            match self._place:
                case "between":
                    text = self._between(text, events)
                case "head":
                    text = self._header(text, events)
                case "call":
                    text = self._call(text, events)
                case _:
                    text = self._body(text, events)
        return events

    def finish(self) -> list[Event]:
        match self._place:
            case "head":
                return self._text(self._head + self._until.held())
            case "call":
                return [self._called(self._until.held(), "")]
            case _:
                tail, self._tail = self._tail, ""
                if self._place == "between":
                    self._begin(Content)
                return [self._shown(tail)] if tail else []

    def _between(self, text: str, events: list[Event]) -> str:
        """Look for the next message's header."""
        text = (self._tail + text).lstrip(SPACE)
        self._tail = ""
        if text.startswith(_HEADS):
            self._place, self._head, self._until = "head", "", Until((MESSAGE, END, *ENDINGS))
            return text
        if found := _STOP.match(text):
            return text[found.end() :]
        if any(marker.startswith(text) for marker in (*_HEADS, *_STOPS)):
            self._tail = text
            return ""
        self._begin(Content)
        return self._body(text, events)

    def _header(self, text: str, events: list[Event]) -> str:
        found = self._until.push(text)
        if found is None:
            return ""
        if found.marker == MESSAGE:
            self._enter(found.before)
        else:
            events += self._text(found.before)
            self._place = "between"
        return found.rest

    def _enter(self, head: str) -> None:
        """Begin the message that a header announces."""
        self._head = head + MESSAGE
        before, _, after = head.removeprefix(START).partition(CHANNEL)
        recipient = _RECIPIENT.search(head)
        if recipient:
            self._place, self._until = "call", Until(_STOPS, JSON_STRINGS)
        elif before.strip(SPACE) in ("", "assistant"):
            self._begin(Reasoning if after.split()[:1] == ["analysis"] else Content)
        else:
            self._begin(Content)

    def _call(self, text: str, events: list[Event]) -> str:
        found = self._until.push(text)
        if found is None:
            return ""
        self._place = "between"
        is_next = found.marker in (START, CHANNEL)
        events.append(self._called(found.before, "" if is_next else found.marker))
        return found.marker + found.rest if is_next else found.rest

    def _called(self, body: str, marker: str) -> Event:
        recipient = _RECIPIENT.search(self._head)
        name = recipient[1].removeprefix(FUNCTIONS) if recipient else ""
        call = named_call(name, body.strip(SPACE)) if self._with_tools else None
        if call:
            return call
        written = self._head + body + marker
        return Malformed(written) if self._with_tools else Content(written)

    def _body(self, text: str, events: list[Event]) -> str:
        text, self._tail = self._tail + text, ""
        found = _STOP.search(text)
        split = found.start() if found else len(text) - partial(text, _STOPS)
        if split:
            events.append(self._shown(text[:split]))
        if found is None:
            self._tail = text[split:]
            return ""
        self._place = "between"
        return text[found.start() :] if found[0] in (START, CHANNEL) else text[found.end() :]

    def _begin(self, kind: type[Content | Reasoning]) -> None:
        self._place, self._kind, self._parted = "body", kind, kind in self._seen

    def _shown(self, text: str) -> Event:
        parting = "\n\n" if self._parted else ""
        self._parted = False
        self._seen.add(self._kind)
        return self._kind(parting + text)

    def _text(self, text: str) -> list[Event]:
        return [Content(text)] if text.strip(SPACE) else []


def parser(*, with_tools: bool, prompt_end: str) -> Parser:
    """Return a parser of whole turns; without tools a call is content."""
    return HarmonyParser(with_tools=with_tools, prompt_end=prompt_end)


def forced(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`."""
    begun = f"{CHANNEL}commentary to={FUNCTIONS}"
    return begun + (f"{name} {CONSTRAIN}json{MESSAGE}" if name else "")


FORMAT = ToolFormat(
    name=NAME,
    evidence=(CHANNEL, MESSAGE),
    parser=lambda _: HarmonyParser(),
    forced=forced,
    markers=frozenset({START, CHANNEL, MESSAGE, CONSTRAIN, END}),
    endings=frozenset(ENDINGS),
)
