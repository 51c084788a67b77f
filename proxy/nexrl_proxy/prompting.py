"""The prompt of a request, token for token: a continuation of a call the session holds, or a rendering of its own.

A continuation is `prompt + completion` of that call and then only the tokens of what follows it, found by rendering a
dummy conversation with and without the new messages: history is never rendered again, so it cannot drift.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from nexrl.records import Int32s
from nexrl_proxy.conversation import Held, History, Session
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message, normalised
from nexrl_proxy.render import Renderer

SENTINEL = f"nexrl{secrets.token_hex(8)}"


class Prompt(Struct, frozen=True, kw_only=True, eq=False):
    """What the engine is asked to continue, and how it relates to what the session holds."""

    ids: Int32s
    delta: Int32s
    """The ids the parent does not have; all of them without a parent."""
    parent: Held | None = None
    covered: int = 0
    """Number of messages that are the parent's, its reply included."""
    drift: str | None = None


def prompt_of(
    history: History, session: Session, renderer: Renderer, *, tools: list[Any] | None, kwargs: dict[str, Any]
) -> Prompt:
    """Return the prompt; `drift` says why a new chain opens where one should have been extended."""
    found = session.find(history)
    if found:
        held, covered = found
        delta = continuation(renderer, held, history.messages[covered:], tools=tools, kwargs=kwargs)
        if delta is not None:
            ids = held.ids()
            ids.extend(delta)
            return Prompt(ids=ids, delta=delta, parent=held, covered=covered)
    ids = renderer.encode(renderer.render(history.messages, tools=tools, kwargs=kwargs, generate=True))
    edited = "edited" if history.has_reply and len(session) else None
    return Prompt(ids=ids, delta=ids, drift="template" if found else edited)


def continuation(
    renderer: Renderer, held: Held, new: Sequence[Message], *, tools: list[Any] | None, kwargs: dict[str, Any]
) -> Int32s | None:
    """Return the tokens after a held call: the end of its turn, the new messages, the generation prompt.

    None where the template's renderings of a history with and without the new messages do not extend each other.
    """

    def render(messages: list[Message], *, generate: bool) -> str:
        return renderer.render(messages, tools=tools, kwargs=kwargs, generate=generate)

    dummy = _dummy(held.reply)
    try:
        turn = render(dummy, generate=False)
        added = text_after(turn, render([*dummy, *new], generate=True))
        plain = tail_of(render(_dummy({}), generate=False))
    except ApiError:
        return None
    last = renderer.literal(held.completion[-1]) if held.ended and held.completion else ""
    closing = closing_of(tail_of(turn) or turn, plain, last, called="tool_calls" in dummy[-1])
    if added is None or closing is None:
        return None
    return _encoded_after(renderer, last, closing + added)


def text_after(turn: str, longer: str) -> str | None:
    """Return what a longer rendering adds to a turn.

    Where the template renders earlier parts of a turn differently once it is history (dropped reasoning, say), what
    stands behind the reply's content decides. None where that differs too.
    """
    if longer.startswith(turn):
        return longer[len(turn) :]
    before, after = tail_of(turn), tail_of(longer)
    if before is None or after is None or not after.startswith(before):
        return None
    return after[len(before) :]


def closing_of(tail: str, plain: str | None, last: str, *, called: bool) -> str | None:
    r"""Return the text that ends a turn, without what was sampled of it.

    `tail` is the rendering after the reply's content, `plain` the same for a reply without tool calls, `last` the
    token with which the model ended the turn, or "".
    Example: tail "<|im_end|>\n", last "<|im_end|>" -> "\n"; last "" (cut by length) -> "<|im_end|>\n".
    """
    if last and last in tail:
        return tail[tail.rindex(last) + len(last) :]
    if plain is None or not tail.endswith(plain):
        return None
    return plain if called else tail


def tail_of(rendering: str) -> str | None:
    """Return what stands behind the sentinel; None where the template dropped it."""
    _, found, tail = rendering.partition(SENTINEL)
    return tail if found else None


def _dummy(reply: Message) -> list[Message]:
    [echo] = normalised([{"role": "assistant", "content": SENTINEL, "tool_calls": reply.get("tool_calls")}])
    return [{"role": "user", "content": "u"}, echo]


def _encoded_after(renderer: Renderer, last: str, text: str) -> Int32s:
    """Encode text as it is encoded behind the turn's last token, which pre-tokenizers may look at."""
    behind = renderer.encode(last + text)
    alone = renderer.encode(last)
    if last and behind[: len(alone)] == alone:
        return Int32s(behind[len(alone) :])
    return renderer.encode(text)
