"""One episode: an environment and the model, turn by turn, in one conversation that only ever grows.

    observation -> user message -> model's reply -> action -> observation, reward -> ...

Where the environment has `tools`, each call of one is an action of its own, and what is observed is the tool's answer.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from nexrl.errors import RunError
from nexrl.records import Reward
from nexrl_trainer.rollouts.environments.gymnasium import Action, Environment, ToolCall
from nexrl_trainer.rollouts.environments.model import FullError, Message, Model, Reply
from nexrl_trainer.rollouts.environments.rules import RETURN, STEP, Played

SEEDS = 1 << 31
"""Seeds that we make are below this: every generator takes them."""


async def play(
    environment: Environment, model: Model, *, task: dict[str, Any], system: str | None, max_turns: int
) -> Played:
    """Play until the environment ends it, after `max_turns` replies, or when the model's context is full.

    Raises what the environment raises, RunError for what it returns and nobody can use, ServiceError where the model
    does not answer.
    """
    tools = environment.tools
    observed = await environment.reset(seed=seed_of(task), options=task)
    messages: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    messages += _as_messages(environment, observed, None)
    rewards: list[Reward] = []
    why, answer = f"cut off after {max_turns} turns", ""
    for _ in range(max_turns):
        try:
            reply = await model.reply(messages, tools)
        except FullError:
            if not rewards:
                raise RunError("the first observation leaves the model no room for a reply: shorten it") from None
            why = "cut off: the model's context is full"
            break
        messages.append(reply.message)
        answer = reply.message.get("content") or ""
        reward, ended = await _act(environment, reply, tools, messages)
        rewards.append(Reward(name=STEP, value=reward, call=reply.id))
        if ended:
            why = ""
            break
    total = math.fsum(reward.value for reward in rewards)
    rewards.append(Reward(name=RETURN, value=total, explanation=why))
    return Played(answer=answer, rewards=rewards, cut_off=why)


async def _act(
    environment: Environment, reply: Reply, tools: Sequence[Any] | None, messages: list[Message]
) -> tuple[float, bool]:
    """Take a reply's actions and add what is observed; return the sum of their rewards, and whether it ended."""
    rewards: list[float] = []
    for action in actions_of(reply.message, tools):
        stepped = await environment.step(action)
        rewards.append(stepped.reward)
        if stepped.ended:
            return math.fsum(rewards), True
        messages += _as_messages(environment, stepped.observation, action)
    return math.fsum(rewards), False


def actions_of(message: Message, tools: Sequence[Any] | None) -> list[Action]:
    """Return what a reply does: each call of a tool, or what it says.

    Example: {"content": "left"} -> ["left"]
    """
    called = message.get("tool_calls") if tools else None
    return [_tool_call(call) for call in called] if called else [message.get("content") or ""]


def _tool_call(call: dict[str, Any]) -> ToolCall:
    written = call["function"]["arguments"]
    try:
        arguments = msgspec.json.decode(written)
    except msgspec.DecodeError:
        arguments = written
    return ToolCall(id=call["id"], name=call["function"]["name"], arguments=arguments)


def _as_messages(environment: Environment, observed: Any, action: Action | None) -> list[Message]:
    """Return an observation as the model is shown it: a user's message, or the answer of the tool that was called."""
    if isinstance(observed, str):
        text = str(observed)  # NumPy's texts are of a kind of their own
        if isinstance(action, ToolCall):
            return [{"role": "tool", "tool_call_id": action.id, "content": text}]
        return [{"role": "user", "content": text}]
    if isinstance(action, ToolCall):
        raise environment.error_about(observed, "answers a tool call: return text")
    if not isinstance(observed, list) or not observed:
        raise environment.error_about(observed, "is no text: return text, or a list of chat messages")
    messages = cast("list[Any]", observed)
    for message in messages:
        if not isinstance(message, dict) or "role" not in message:
            raise environment.error_about(message, 'is no chat message: use {"role": ..., "content": ...}')
    return messages


def seed_of(task: Mapping[str, Any]) -> int:
    """Return a task's own `seed`, or one made from all of it: what is compared with each other begins alike."""
    given = task.get("seed")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    return zlib.crc32(msgspec.json.encode(task, order="sorted")) % SEEDS
