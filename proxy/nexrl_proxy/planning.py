"""From an `Ask` to a `Plan`: everything that is decided before a token is sampled.

Which conversation this is, what the prompt's tokens are, which parameters are in force. Sampling is `sampling`'s; for
engines that render messages themselves, `spoken_planning` decides the little that is left.
"""

import time
from collections import OrderedDict
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from nexrl.keys import mode_of
from nexrl_proxy.attribution import Caller
from nexrl_proxy.conversation import History, Session, Sessions, history_of, remember, setting_of
from nexrl_proxy.dialects import Ask, Dialect, Stored
from nexrl_proxy.errors import ApiError, too_long, unsupported
from nexrl_proxy.grammar import json_or_call
from nexrl_proxy.ids import new_id
from nexrl_proxy.messages import normalised
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.policy import SamplingPolicy
from nexrl_proxy.prompting import HistoryPolicy, Prompt, continued, prompt_of, raw_prompt
from nexrl_proxy.render import Renderer
from nexrl_proxy.talk import Talk, decoded_messages, talk_of, whole_messages

ASSISTANT = b'"assistant"'
MOST_TOOLS = 256
"""Sets of tool definitions that are decoded once."""


class Restores(Protocol):
    """Where a session comes from that is not in memory."""

    async def session(self, attempt: str) -> Session:
        """Return it; an empty one where there is none."""
        ...

    def delete(self, response: str) -> None:
        """Let no session have a reply again; raises ApiError where that cannot be kept."""
        ...


class Plan(Struct, frozen=True, kw_only=True, eq=False):
    """A request with its prompts: all that is decided before anything is sampled."""

    ask: Ask
    caller: Caller
    response: str
    """The id of the reply."""
    created: int
    """Unix time in seconds."""
    call_prefix: str
    talk: Talk | None
    """None for raw prompts."""
    prompts: list[Prompt]
    """One, or one for each raw prompt; each is sampled `n` times."""
    params: dict[str, Any]
    """Sampling parameters in force, in the engine's names; without `max_new_tokens` and `sampling_seed`."""
    limits: list[int | None]
    """`max_new_tokens` for each prompt; None: the upstream's own."""
    other_model: bool = False
    """It is asked of another model than the proxy's own."""
    of: str = ""
    """Which of several models that learn it is asked of: see `Call.policy`."""
    request: bytes | None = None
    """The request as a chat completion, for engines that render messages themselves."""

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)


class Plans(Protocol):
    """What plans requests."""

    async def plan(self, ask: Ask, caller: Caller, dialect: Dialect) -> Plan:
        """Return what will be asked of the engine; raises ApiError where the request cannot be answered."""
        ...

    async def count(self, ask: Ask, caller: Caller) -> int:
        """Return how many tokens the request's prompt has; raises ApiError where that cannot be said."""
        ...

    async def stored(self, attempt: str, response: str) -> Stored | None:
        """Return a reply of a session, where requests may name it."""
        ...

    async def delete(self, attempt: str, response: str) -> bool:
        """Let no request name a reply of a session any longer; returns whether one could. Raises ApiError."""
        ...


class Planner:
    """Plans requests for engines that take token ids; its collaborators are shared by all of them."""

    def __init__(
        self,
        *,
        renderer: Renderer,
        parsers: Parsers,
        sessions: Sessions,
        restorer: Restores | None = None,
        policy: SamplingPolicy | None = None,
        history: HistoryPolicy = "append",
        of: str = "",
    ) -> None:
        """`of` is the model's name where there are several that learn (`Call.policy`)."""
        self._of = of
        self._renderer = renderer
        self._parsers = parsers
        self._sessions = sessions
        self._restorer = restorer
        self._policy = policy or SamplingPolicy()
        self._history: HistoryPolicy = history
        self._settings: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()

    async def plan(self, ask: Ask, caller: Caller, dialect: Dialect) -> Plan:
        """Return what will be asked of the engine; raises ApiError where the request cannot be answered."""
        params = self._policy.effective(ask.sampling, mode_of(caller.session))
        self._check(params)
        talk, prompts = await self._prompts(ask, caller)
        if "json_schema" in params and talk and ask.tools and ask.may_call:
            params = self._formed(ask, prompts[0], params)
        limit = params.pop("max_new_tokens", None) if ask.max_tokens is None else ask.max_tokens
        limits = [self._limit(prompt, limit) for prompt in prompts]
        refuse_out_of_reach(params.get("min_new_tokens", 0), min(limits))
        return Plan(
            ask=ask,
            caller=caller,
            response=f"{dialect.response_prefix}{new_id()}",
            created=int(time.time()),
            call_prefix=dialect.call_prefix,
            talk=talk,
            prompts=prompts,
            params=params,
            limits=[*limits],
            of=self._of,
        )

    async def count(self, ask: Ask, caller: Caller) -> int:
        """Return how many tokens the request's prompt has; raises ApiError."""
        _, prompts = await self._prompts(ask, caller)
        return sum(len(prompt.ids) for prompt in prompts)

    async def stored(self, attempt: str, response: str) -> Stored | None:
        """Return a reply of a session, read back where it is not in memory."""
        session = self._sessions.known(attempt)
        if session is None or response not in session.responses:
            if self._restorer is None or (session and session.whole):
                return None
            session = await self._whole(attempt)
        return session.responses.get(response)

    async def delete(self, attempt: str, response: str) -> bool:
        """Let no request name a reply of a session any longer; raises ApiError."""
        if await self.stored(attempt, response) is None:
            return False
        if self._restorer:
            self._restorer.delete(response)
        self._sessions.get(attempt).store(response, None)
        return True

    async def _prompts(self, ask: Ask, caller: Caller) -> tuple[Talk | None, list[Prompt]]:
        """Return the conversation and its prompts; a session that lacks what they go on from is read back first."""
        session = self._sessions.get(caller.session)
        may_lack = self._restorer is not None and not session.whole and _goes_on(ask)
        if not (may_lack and ask.named.difference(session.responses)):
            talk, prompts = self._found(ask, session)
            if not may_lack or all(prompt.parent and not prompt.drift for prompt in prompts):
                return talk, prompts
        return self._found(ask, await self._whole(caller.session))

    async def _whole(self, attempt: str) -> Session:
        """Return a session with what ingest has of it."""
        assert self._restorer
        whole = await self._restorer.session(attempt)
        whole.adopt(self._sessions.get(attempt))
        whole.whole = True
        self._sessions.put(attempt, whole)
        return whole

    def _found(self, ask: Ask, session: Session) -> tuple[Talk | None, list[Prompt]]:
        if ask.prompts:
            return None, self._raw(ask, session)
        talk = self._talk(ask, session)
        talk, prompt = self._prompt(ask, talk, session)
        return talk, [self._forced(ask, prompt)]

    def _talk(self, ask: Ask, session: Session) -> Talk:
        setting = self._setting(ask)
        if ask.wire:
            return self._recognised(ask.wire.messages, session, setting) or talk_of(ask.wire.messages, setting)
        messages = whole_messages(ask, session)
        return Talk(
            history=history_of(normalised(messages), setting),
            arrived=messages,
            said=messages[ask.instructed :] if ask.store else [],
        )

    def _recognised(self, body: bytes, session: Session, setting: bytes) -> Talk | None:
        """Return a conversation that begins with an earlier request's very bytes, decoded from there on."""
        known = session.bodies.longest(setting, body)
        if known is None:
            return None
        place, rest = known.value, body[known.length :].lstrip()
        if not rest.startswith(b","):
            return None
        arrived = decoded_messages(b"[" + rest[1:])
        start = History(setting=setting, messages=[], digests=[place.digest], start=place.length)
        try:
            return Talk(history=start.extended(normalised(arrived)), arrived=arrived, body=body, known=known)
        except ApiError:  # decoded whole, it is told by its place in the request
            return None

    def _prompt(self, ask: Ask, talk: Talk, session: Session) -> tuple[Talk, Prompt]:
        """Return the prompt, and the conversation as far as it was needed."""
        tools, kwargs = ask.tools, ask.template
        if talk.history.start:
            if self._history == "append" and (
                prompt := continued(talk.history, session, self._renderer, tools=tools, kwargs=kwargs)
            ):
                return talk, prompt
            talk = talk_of(talk.body, talk.history.setting)
        policy = self._history
        return talk, prompt_of(talk.history, session, self._renderer, tools=tools, kwargs=kwargs, policy=policy)

    def _forced(self, ask: Ask, prompt: Prompt) -> Prompt:
        """Return the prompt with the beginning of the tool call that the request demands."""
        if ask.must_call is None:
            return prompt
        name = self._renderer.shield(ask.must_call) or None
        forced = self._parsers.forced(name, prompt_end=self._renderer.tail(prompt.ids))
        if forced is None:
            message = "tool_choice: this model's tool-call format cannot be begun for it; use 'auto' or 'none'"
            raise unsupported("tool_choice", message)
        return prompt.answered_with(self._renderer.unshield(forced), self._renderer.encode(forced, behind=True))

    def _formed(self, ask: Ask, prompt: Prompt, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters with a grammar that leaves room for tool calls; raises ApiError."""
        schema, others = params["json_schema"], {name: params[name] for name in params if name != "json_schema"}
        if ask.must_call is not None:  # there is no text that could follow a schema
            return others
        call = self._parsers.begun_call
        if call is None:
            message = (
                "response_format beside tools: no grammar tells the JSON from tool calls as this model writes them "
                f"({self._parsers.tools}); send one of the two"
            )
            raise unsupported("response_format", message)
        tags = self._parsers.tags
        open_thought = tags is not None and tags.open_at(self._renderer.tail(prompt.ids))
        return others | {"structural_tag": json_or_call(schema, call=call, thought=tags, open_thought=open_thought)}

    def _raw(self, ask: Ask, session: Session) -> list[Prompt]:
        size = self._renderer.vocabulary_size
        for prompt in ask.prompts:
            if not isinstance(prompt, str) and prompt and not 0 <= min(prompt) <= max(prompt) < size:
                raise ApiError(f"prompt: token ids lie between 0 and {size - 1}", param="prompt")
        return [raw_prompt(prompt, session, self._renderer) for prompt in ask.prompts]

    def _limit(self, prompt: Prompt, limit: int | None) -> int:
        if not prompt.ids:
            raise ApiError("the prompt is empty: send at least one token", param="prompt")
        room = self._renderer.context - len(prompt.ids)
        if room < 1:
            raise too_long(len(prompt.ids), self._renderer.context)
        return min(room, limit or room)

    def _setting(self, ask: Ask) -> bytes:
        if not ask.wire:
            return setting_of(ask.tools, ask.template)
        key = (ask.wire.tools, msgspec.json.encode(ask.template, order="sorted"))
        setting = self._settings.get(key) or setting_of(ask.tools, ask.template)
        remember(self._settings, key, setting, most=MOST_TOOLS)
        return setting

    def _check(self, params: dict[str, Any]) -> None:
        size = self._renderer.vocabulary_size
        for token in params.get("logit_bias") or ():
            if not (token.isascii() and token.isdigit() and int(token) < size):
                raise ApiError(
                    f"logit_bias: {token!r} is no token id; the model has 0 to {size - 1}", param="logit_bias"
                )


def refuse_out_of_reach(least: int, most: int) -> None:
    """Raise ApiError where a reply has to be longer than it may be."""
    if least > most:
        raise ApiError(
            f"min_tokens is {least}, and the reply has at most {most} tokens: lower it, or raise the limit",
            param="min_tokens",
        )


def _goes_on(ask: Ask) -> bool:
    """Whether a request repeats something that was said before."""
    if ask.wire:
        return ASSISTANT in ask.wire.messages
    if ask.prompts or ask.previous is not None:
        return True
    return any(message.get("role") == "assistant" for message in ask.messages)
