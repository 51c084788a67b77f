"""Plans for engines that take messages and return text: nothing is tokenised, and no call continues another."""

import time
from typing import Any

import msgspec

from nexrl.keys import mode_of
from nexrl.records import Int32s
from nexrl_proxy.attribution import Caller
from nexrl_proxy.conversation import Sessions, history_of
from nexrl_proxy.dialects import Ask, Dialect, Stored
from nexrl_proxy.errors import ApiError
from nexrl_proxy.ids import new_id
from nexrl_proxy.planning import Plan
from nexrl_proxy.policy import SamplingPolicy
from nexrl_proxy.prompting import Prompt
from nexrl_proxy.talk import Talk, whole_messages


class SpokenPlanner:
    """Plans requests by what stands in them."""

    def __init__(self, *, sessions: Sessions, policy: SamplingPolicy | None = None, other_model: bool = False) -> None:
        self._sessions = sessions
        self._policy = policy or SamplingPolicy()
        self._other_model = other_model

    async def plan(self, ask: Ask, caller: Caller, dialect: Dialect) -> Plan:
        messages = whole_messages(ask, self._sessions.get(caller.session))
        ask = msgspec.structs.replace(ask, messages=messages)
        params = self._policy.effective(ask.sampling, mode_of(caller.session))
        if self._other_model:  # what nobody asks for is its server's to say
            params = {name: value for name, value in params.items() if name in ask.sampling}
        limit = params.pop("max_new_tokens", None) if ask.max_tokens is None else ask.max_tokens
        said = messages[ask.instructed :] if ask.store else []
        return Plan(
            ask=ask,
            caller=caller,
            response=f"{dialect.response_prefix}{new_id()}",
            created=int(time.time()),
            call_prefix=dialect.call_prefix,
            talk=Talk(history=history_of([], b""), arrived=messages, said=said),
            prompts=[Prompt(ids=Int32s(), delta=Int32s())],
            params=params,
            limits=[limit],
            other_model=self._other_model,
            request=spoken_request(ask),
        )

    async def count(self, ask: Ask, caller: Caller) -> int:
        del ask, caller
        raise ApiError("tokens are not counted with an OpenAI upstream: nothing is tokenised here", status=501)

    async def stored(self, attempt: str, response: str) -> Stored | None:
        session = self._sessions.known(attempt)
        return session.responses.get(response) if session else None

    async def delete(self, attempt: str, response: str) -> bool:
        if await self.stored(attempt, response) is None:
            return False
        self._sessions.get(attempt).store(response, None)
        return True


def spoken_request(ask: Ask) -> bytes | None:
    """Return the request as a chat completion request; None for raw prompts."""
    if ask.request is not None or ask.prompts:
        return ask.request
    choice: Any = "auto" if ask.may_call else "none"
    if ask.must_call is not None:
        choice = {"type": "function", "function": {"name": ask.must_call}} if ask.must_call else "required"
    request: dict[str, Any] = {"model": ask.model, "messages": ask.messages}
    if ask.tools:
        request |= {"tools": ask.tools, "tool_choice": choice}
    if ask.stops:
        request["stop"] = list(ask.stops)
    if schema := ask.sampling.get("json_schema"):
        form = {"name": "reply", "schema": msgspec.json.decode(schema)}
        request["response_format"] = {"type": "json_schema", "json_schema": form}
    return msgspec.json.encode(request)
