"""The prompt of a request, token for token: a continuation of a call the session holds, or a rendering of its own.

A continuation is `prompt + completion` of that call and then only the tokens of what follows it, found by rendering a
dummy conversation with and without the new messages: history is never rendered again, so it cannot drift.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from nexrl.records import Int32s, pack
from nexrl_proxy.conversation import IDS, TEXT, Held, History, Session
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message, normalised
from nexrl_proxy.render import Renderer

SENTINEL = f"nexrl{secrets.token_hex(8)}"
HistoryPolicy = Literal["append", "template"]
"""What happens to turns that were: they stay as they were sampled, or the template renders them anew each time."""


class Prompt(Struct, frozen=True, kw_only=True, eq=False):
    """What the engine is asked to continue, and how it relates to what the session holds."""

    ids: Int32s
    written: bytes = b""
    """The ids as JSON without the brackets, where that is known."""
    delta: Int32s
    """The ids the parent does not have; all of them without a parent."""
    parent: Held | None = None
    covered: int = 0
    """Number of messages that are the parent's, its reply included; of a raw text, characters."""
    drift: str | None = None
    forced: str = ""
    """Text the reply was made to begin with; the prompt ends with it."""
    begun: int | None = None
    """How many of the ids stand before that."""

    def answered_with(self, forced: str, ids: Int32s) -> "Prompt":
        """Return the prompt with a reply that begins with `forced`."""
        return Prompt(
            ids=joined(self.ids, ids),
            delta=joined(self.delta, ids),
            parent=self.parent,
            covered=self.covered,
            drift=self.drift,
            forced=forced,
            begun=len(self.ids),
        )


def joined(ids: Int32s, more: Int32s) -> Int32s:
    """Return ids with more behind them."""
    longer = Int32s()
    longer.extend(ids)
    longer.extend(more)
    return longer


def prompt_of(
    history: History,
    session: Session,
    renderer: Renderer,
    *,
    tools: list[Any] | None,
    kwargs: dict[str, Any],
    policy: HistoryPolicy = "append",
) -> Prompt:
    """Return the prompt; `drift` says why a new chain opens where one should have been extended.

    `history` holds every message.
    """
    if policy == "append" and (prompt := continued(history, session, renderer, tools=tools, kwargs=kwargs)):
        return prompt
    ids = renderer.prompt(history.messages, tools=tools, kwargs=kwargs)
    found = session.find(history)
    if found is None:
        return Prompt(ids=ids, delta=ids, drift=session.drifted(history))
    edited = edited_by(history.messages[found.covered :])
    before = session.beginning(found.call).ids
    if policy == "template" and ids[: len(before)] == before:
        delta = Int32s(ids[len(before) :])
        return Prompt(ids=ids, delta=delta, parent=found.call, covered=found.covered, drift=edited)
    retokenised = policy == "template" and renderer.spelled(ids).startswith(renderer.spelled(before))
    return Prompt(ids=ids, delta=ids, drift=edited or ("retokenised" if retokenised else "template"))


def edited_by(new: Sequence[Message]) -> str | None:
    """Return the reason where what follows a call holds a reply that nobody gave."""
    return "edited" if any(message["role"] == "assistant" for message in new) else None


def continued(
    history: History, session: Session, renderer: Renderer, *, tools: list[Any] | None, kwargs: dict[str, Any]
) -> Prompt | None:
    """Return the prompt that extends a held call; None where none is continued, or the template does not allow it.

    `history` may lack messages before those that matter.
    """
    found = session.find(history)
    if found is None:
        return None
    new = history.messages[found.covered - history.start :]
    delta = continuation(renderer, found.call, new, tools=tools, kwargs=kwargs, setting=history.setting)
    if delta is None:
        return None
    ids, written = session.beginning(found.call).followed_by(delta)
    drift = edited_by(new)
    return Prompt(ids=ids, written=written, delta=delta, parent=found.call, covered=found.covered, drift=drift)


def raw_prompt(prompt: str | Int32s, session: Session, renderer: Renderer) -> Prompt:
    """Return the prompt that is given as it is; it extends a held call whose prompt and completion it begins with."""
    if not isinstance(prompt, str):
        found = session.raw.longest(IDS, pack(prompt))
        covered = found.length // prompt.itemsize if found else 0
        parent = found.value if found else None
        return Prompt(ids=prompt, delta=Int32s(prompt[covered:]), parent=parent, covered=covered)
    data = prompt.encode(errors="surrogatepass")
    if found := session.raw.longest(TEXT, data):
        held = found.value
        rest = data[found.length :].decode(errors="surrogatepass")
        closing = renderer.literal(held.completion[-1]) if held.ended else ""
        if rest.startswith(closing):
            delta = renderer.encode_raw(rest[len(closing) :], behind=True)
            ids, written = session.beginning(held).followed_by(delta)
            covered = len(prompt) - len(rest)
            return Prompt(ids=ids, written=written, delta=delta, parent=held, covered=covered)
    ids = renderer.encode_raw(prompt)
    return Prompt(ids=ids, delta=ids)


def continuation(
    renderer: Renderer,
    held: Held,
    new: Sequence[Message],
    *,
    tools: list[Any] | None,
    kwargs: dict[str, Any],
    setting: bytes = b"",
) -> Int32s | None:
    """Return the tokens after a held call: the end of its turn, the new messages, the generation prompt.

    None where the template's renderings of a history with and without the new messages do not extend each other.
    `setting` stands for tools and arguments, so that what depends on them alone is rendered once.
    """

    def render(messages: list[Message], *, generate: bool) -> str:
        return renderer.render(messages, tools=tools, kwargs=kwargs, generate=generate)

    dummy, plain_dummy = _dummy(held.tool_calls), _dummy(None)
    try:
        plain = renderer.remembered(setting, lambda: render(plain_dummy, generate=False))
        turn = render(dummy, generate=False) if held.tool_calls else plain
        longer = render([*dummy, *new], generate=True)
    except ApiError:
        return None
    last = renderer.literal(held.completion[-1]) if held.ended and held.completion else ""
    tail = tail_of(turn)
    if anew := ended_anew(tail, tail_of(longer), last, renderer.control_at):
        return _encoded_after(renderer, last, anew)
    added = text_after(turn, longer, last, renderer.control_at)
    ending = renderer.control_ending(turn) if held.tool_calls else None
    closing = closing_of(turn if tail is None else tail, tail_of(plain), last, ending)
    if added is None or closing is None:
        return None
    following = closing + added
    if not closing and last and following.startswith(last):  # GLM ends a turn with the token that opens the next one
        following = following[len(last) :]
    return _encoded_after(renderer, last, following)


def text_after(turn: str, longer: str, last: str, control_at: Callable[[str], str]) -> str | None:
    """Return what a longer rendering adds to a turn.

    Where the template renders earlier parts of a turn differently once it is history (dropped reasoning, say), what
    stands behind the reply's content decides; another control token in place of `last`, with which the model ended
    it, ends it as well (gpt-oss: `<|return|>`, later `<|end|>`). None where more than that differs.
    """
    if longer.startswith(turn):
        return longer[len(turn) :]
    before, after = tail_of(turn), tail_of(longer)
    if before is None or after is None:
        return None
    if after.startswith(before):
        return after[len(before) :]
    if before == last and (ending := control_at(after)):
        return after[len(ending) :]
    return None


def ended_anew(tail: str | None, longer: str | None, last: str, control_at: Callable[[str], str]) -> str | None:
    """Return what follows a reply that the model did not end as the template does, where the end differs in history.

    Example (gpt-oss): tail "<|return|>", longer "<|end|><|start|>user...", last "" (cut by length) -> all of longer.
    """
    if not tail or not longer or last == tail or longer.startswith(tail) or control_at(tail) != tail:
        return None
    return longer if control_at(longer) else None


def closing_of(tail: str, plain: str | None, last: str, ending: str | None) -> str | None:
    r"""Return the text that ends a turn, without what was sampled of it.

    `tail` is the rendering after the reply's content, `plain` the same for a reply without tool calls, `last` the
    token with which the model ended the turn, or "". `ending`, for a reply with tool calls, is the control token that
    ends the rendering, or "".
    Example: tail "<|im_end|>\n", last "<|im_end|>" -> "\n"; last "" (cut by length) -> "<|im_end|>\n".
    """
    if last and last in tail:
        return tail[tail.rindex(last) + len(last) :]
    if plain is None or not tail.endswith(plain):
        return ending or None  # gpt-oss: another token than that of a reply without
    return tail if ending is None else plain


def tail_of(rendering: str) -> str | None:
    """Return what stands behind the sentinel; None where the template dropped it."""
    _, found, tail = rendering.partition(SENTINEL)
    return tail if found else None


def _dummy(tool_calls: list[Any] | None) -> list[Message]:
    [echo] = normalised([{"role": "assistant", "content": SENTINEL, "tool_calls": tool_calls}])
    return [{"role": "user", "content": "u"}, echo]


def _encoded_after(renderer: Renderer, last: str, text: str) -> Int32s:
    """Encode text as it is encoded behind the turn's last token, which pre-tokenizers may look at."""
    behind = renderer.encode(last + text)
    alone = renderer.encode(last)
    if last and behind[: len(alone)] == alone:
        return Int32s(behind[len(alone) :])
    return renderer.encode(text, behind=True)
