"""From a finished completion to its call: recorded, held for continuations, counted. Keeping it is `recorder`'s."""

import time
from collections import Counter

from msgspec import structs

from nexrl.records import Call
from nexrl_proxy.attribution import UNATTRIBUTED
from nexrl_proxy.conversation import Sessions
from nexrl_proxy.dialects import Choice, Stored, Usage
from nexrl_proxy.draw import Draw
from nexrl_proxy.engines import Completion
from nexrl_proxy.ids import new_span_id
from nexrl_proxy.policy import NEUTRAL
from nexrl_proxy.reading import Reader
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.render import Renderer
from nexrl_proxy.restoring import held_of
from nexrl_proxy.talk import place_of


class Recording:
    """Records calls; shared by all requests."""

    def __init__(self, *, recorder: Recorder, sessions: Sessions, renderer: Renderer | None) -> None:
        """Take `renderer` None for engines that return text, whose calls nothing continues."""
        self._recorder = recorder
        self._sessions = sessions
        self._renderer = renderer
        self.counters: Counter[str] = Counter()

    def record(self, draw: Draw, reader: Reader, completion: Completion, started_ns: int) -> None:
        """Record a call, and let later requests continue it."""
        plan, prompt = draw.plan, draw.prompt
        params = draw.work("").params
        params.pop("stop_token_ids", None)
        call = Call(
            id=new_span_id(),
            session=plan.caller.session,
            parent=prompt.parent.id if prompt.parent else None,
            prompt_delta=prompt.delta,
            completion=completion.ids,
            logprobs=completion.logprobs,
            weight_versions=completion.weight_versions,
            temperature=params.get("temperature", NEUTRAL["temperature"]),
            sampling=params,
            finish_reason=completion.finish or "abort",
            exact=completion.exact,
            other_model=plan.other_model,
            policy=plan.of,
            drift=prompt.drift,
            agent=plan.caller.agent,
            group=plan.caller.group,
            model=plan.ask.model,
            dialect=plan.ask.dialect,
            response=plan.response,
            messages=draw.new_messages,
            tools=None if prompt.parent else plan.ask.tools,
            template=plan.ask.template,
            instructed=plan.ask.instructed,
            stored=plan.ask.store,
            reply=reader.message,
            malformed_tool_call=reader.malformed_tool_call,
            started_ns=started_ns,
            ended_ns=time.time_ns(),
        )
        self._recorder.record(call, plan.caller, prompt_tokens=len(prompt.ids) or completion.prompt_tokens)
        self._hold(draw, call)
        self._count(call)

    def store(self, draw: Draw, choice: Choice, usage: Usage) -> None:
        """Let later requests name a reply by its id, where its request wants that."""
        plan = draw.plan
        if plan.ask.dialect != "responses" or plan.talk is None:
            return
        session = plan.caller.session
        if not plan.ask.store:
            self._sessions.get(session).store(plan.response, None)
            return
        stored = Stored(
            ask=plan.ask,
            created=plan.created,
            choice=structs.replace(choice, tokens=None),
            usage=usage,
            said=[*plan.talk.said, choice.message],
        )
        self._sessions.get(session).store(plan.response, stored)
        self._sessions.grown(session, stored.size)

    def _hold(self, draw: Draw, call: Call) -> None:
        plan = draw.plan
        session = self._sessions.get(call.session)
        if not call.exact or self._renderer is None:
            return
        held = held_of(call, draw.prompt.parent, self._renderer)
        if talk := plan.talk:
            session.hold(talk.history.digests[-1], held, call.reply)
            if talk.body:
                body = talk.body.rstrip()[:-1].rstrip()
                session.bodies.remember(talk.history.setting, body, place_of(talk), known=talk.known)
        else:
            prompt = draw.raw
            said = self._renderer.text(call.completion)
            session.hold_raw(held, prompt + said if isinstance(prompt, str) else None)
        self._sessions.grown(call.session, held.size)

    def _count(self, call: Call) -> None:
        self.counters["calls"] += 1
        self.counters["completion_tokens"] += len(call.completion)
        self.counters["inexact"] += not call.exact
        self.counters["malformed_tool_calls"] += call.malformed_tool_call
        self.counters["unattributed"] += call.session == UNATTRIBUTED
        if call.drift:
            self.counters[f"drift_{call.drift}"] += 1
