"""No tool calls: text is content."""

from nexrl_proxy.parsers import Content, Event


class PlainParser:
    """Passes text through."""

    def push(self, text: str) -> list[Event]:
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        return []
