"""Reasoning between tags before the answer, `<think>...</think>` or Mistral's `[THINK]...[/THINK]`.

What follows goes to the tool-call parser. Only at the start: the tags later in an answer are text. A prompt that
already opens the tag starts inside it.
"""

from msgspec import Struct

from nexrl_proxy.parsers import Event, Parser, Reasoning
from nexrl_proxy.parsers.scan import SPACE, partial


class Tags(Struct, frozen=True, kw_only=True):
    """What stands around reasoning."""

    opening: str
    closing: str

    @property
    def markers(self) -> frozenset[str]:
        return frozenset({self.opening, self.closing})

    def open_at(self, prompt_end: str) -> bool:
        """Whether a prompt leaves the reasoning to be gone on with."""
        return prompt_end.rstrip(SPACE).endswith(self.opening)


THINK = Tags(opening="<think>", closing="</think>")
MISTRAL = Tags(opening="[THINK]", closing="[/THINK]")


class ThinkParser:
    """Splits reasoning off, and hands the rest to `answer` without the blank lines between them."""

    def __init__(self, answer: Parser, *, inside: bool, tags: Tags = THINK) -> None:
        self._answer = answer
        self._tags = tags
        self._place = "reasoning" if inside else "start"
        self._tail = ""
        """It may be the beginning of a tag."""
        self._gap: list[str] = []
        """Whitespace that is shown only if something follows it."""
        self._spoken = False

    def push(self, text: str) -> list[Event]:
        if self._place == "answer":
            return self._answer.push(text)
        text, self._tail = self._tail + text, ""
        events: list[Event] = []
        if self._place == "start":
            text = self._open(text)
        if self._place == "reasoning":
            text = self._reason(text, events)
        if self._place == "gap":
            text = text.lstrip(SPACE)
            self._place = "answer" if text else "gap"
        if self._place == "answer" and text:
            events += self._answer.push(text)
        return events

    def finish(self) -> list[Event]:
        tail, self._tail = self._tail, ""
        if self._place == "reasoning":
            return self._shown(tail.rstrip(SPACE))
        if self._place == "start":
            tail = "".join(self._gap) + tail
        return [*self._answer.push(tail), *self._answer.finish()]

    def _open(self, text: str) -> str:
        """Move into the reasoning where the tag was seen, to the answer where it can no longer come."""
        seen = text.lstrip(SPACE)
        self._gap.append(text[: len(text) - len(seen)])
        if seen.startswith(self._tags.opening):
            self._gap.clear()
            self._place = "reasoning"
            return seen[len(self._tags.opening) :]
        if self._tags.opening.startswith(seen):
            self._tail = seen
            return ""
        self._place = "answer"
        return "".join(self._gap) + seen

    def _reason(self, text: str, events: list[Event]) -> str:
        thought, closed, rest = text.partition(self._tags.closing)
        if closed:
            self._place = "gap"
        else:
            split = len(text) - partial(text, (self._tags.closing,))
            thought, self._tail = text[:split], text[split:]
        shown = thought.rstrip(SPACE)
        events += self._shown(shown)
        self._gap.append(thought[len(shown) :])
        return rest

    def _shown(self, text: str) -> list[Event]:
        if not text:
            return []
        whole = "".join(self._gap) + text
        self._gap.clear()
        thought = whole if self._spoken else whole.lstrip(SPACE)
        self._spoken = True
        return [Reasoning(thought)]
