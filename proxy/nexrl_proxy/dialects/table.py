"""The dialects by the path they are served under, behind `/v1` and `/s/<attempt>/v1`."""

from typing import Any, Protocol

from nexrl_proxy.dialects import Ask, Dialect
from nexrl_proxy.dialects.chat import ChatDialect
from nexrl_proxy.dialects.completions import CompletionsDialect
from nexrl_proxy.dialects.messages import MessagesDialect
from nexrl_proxy.dialects.responses import ResponsesDialect


class Counts(Dialect, Protocol):
    """A dialect that also says how many tokens a request has."""

    def decode_count(self, body: bytes) -> Ask:
        """Return what a request would ask for; raises ApiError."""
        ...

    def counted(self, tokens: int) -> dict[str, Any]:
        """Return the answer."""
        ...


DIALECTS: dict[str, Dialect] = {
    "/chat/completions": ChatDialect(),
    "/responses": ResponsesDialect(),
    "/completions": CompletionsDialect(),
    "/messages": MessagesDialect(),
}
COUNTERS: dict[str, Counts] = {
    "/messages/count_tokens": MessagesDialect(),
    "/responses/input_tokens": ResponsesDialect(),
}
