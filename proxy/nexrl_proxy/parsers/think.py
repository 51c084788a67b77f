"""Reasoning as `<think>...</think>` before the answer; what follows goes to the tool-call parser.

Only at the start: the tags later in an answer are text. A prompt that already opens the tag starts inside it.
"""

from nexrl_proxy.parsers import Event, Parser, Reasoning
from nexrl_proxy.text import overlap

OPENING = "<think>"
CLOSING = "</think>"


class ThinkParser:
    """Splits reasoning off, and hands the rest to `answer` without the blank lines between them."""

    def __init__(self, answer: Parser, *, inside: bool) -> None:
        self._answer = answer
        self._place = "reasoning" if inside else "start"
        self._held = ""
        self._spoken = False

    def push(self, text: str) -> list[Event]:
        if self._place == "answer":
            return self._answer.push(text)
        self._held += text
        if self._place == "start":
            self._open()
        match self._place:
            case "start":
                return []
            case "reasoning":
                return self._reason()
            case _:
                return self._rest()

    def finish(self) -> list[Event]:
        held, self._held = self._held, ""
        if self._place == "reasoning":
            return self._reasoning(held.rstrip())
        return [*self._answer.push(held), *self._answer.finish()]

    def _open(self) -> None:
        """Move into the reasoning where the tag was seen, to the answer where it can no longer come."""
        seen = self._held.lstrip()
        if seen.startswith(OPENING):
            self._held = seen[len(OPENING) :]
            self._place = "reasoning"
        elif not OPENING.startswith(seen):
            self._place = "answer"

    def _reason(self) -> list[Event]:
        thought, closed, rest = self._held.partition(CLOSING)
        if closed:
            self._held, self._place = rest, "gap"
            return [*self._reasoning(thought.rstrip()), *self._rest()]
        certain = self._held[: len(self._held) - overlap(self._held, CLOSING)].rstrip()
        self._held = self._held[len(certain) :]
        return self._reasoning(certain)

    def _rest(self) -> list[Event]:
        if self._place == "gap":
            self._held = self._held.lstrip()
            if not self._held:
                return []
        self._place = "answer"
        held, self._held = self._held, ""
        return self._answer.push(held)

    def _reasoning(self, text: str) -> list[Event]:
        if not self._spoken:
            text = text.lstrip()
        if not text:
            return []
        self._spoken = True
        return [Reasoning(text)]
