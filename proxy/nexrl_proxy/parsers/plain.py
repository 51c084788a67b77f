"""No tool calls: text is content."""

from nexrl_proxy.parsers import Content, Event, ToolFormat


class PlainParser:
    """Passes text through."""

    def push(self, text: str) -> list[Event]:
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        return []


FORMAT = ToolFormat(name="none", parser=lambda _: PlainParser(), forced=lambda _: None)
