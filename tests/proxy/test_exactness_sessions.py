"""Whatever agents do, every sampled token is trained once, as it was sampled, and nothing else is."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import World, world_of
from random_sessions import Expected, RandomSession, told
from random_speech import Speaker
from test_exactness import prompt_ids
from thorough import examples

from nexrl.records import Call, Sequence
from nexrl_ingest.assembly.sequences import drift, sequences

STEPS = 10


@pytest.mark.parametrize("model", ["chatml", "thinking", *FAMILIES])
@given(st.integers(0, 2**32))
@examples(2, shrink=False)
def test_every_sampled_token_is_trained_exactly_once_and_as_it_was_sampled(model_of, model, seed):
    asyncio.run(has_a_session(model_of(model), model, seed))


async def has_a_session(directory: Path, model: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as data:
        reasoning = {"chatml": "none", "thinking": "think"}.get(model, "auto")
        async with world_of(directory, Path(data), reasoning=reasoning) as world:
            world.engine.script = speaker = Speaker(world, FAMILIES.get(model))
            session = RandomSession(world, speaker, seed, tools=model != "thinking")
            for _ in range(STEPS):
                await session.step()
            calls = await world.recorded()
            the_record_is_what_the_engine_saw(world, calls)
            every_token_is_trained_once(world, calls)
            chains_are_as_agents_meant_them(session.had, calls)


def the_record_is_what_the_engine_saw(world: World, calls: list[Call]) -> None:
    """Prompts are the parent's prompt, its completion and what is new; completions are all that left the engine."""
    by_id = {call.id: call for call in calls}
    recorded = Counter(
        (
            tuple(prompt_ids(call, by_id)),
            *sampled(call.completion, call.logprobs, call.weight_versions),
            call.temperature,
        )
        for call in calls
    )
    assert recorded == Counter((tuple(ids), *rest) for ids, *rest in engine_saw(world))


def engine_saw(world: World) -> list[tuple[list[int], Any, Any, Any, float]]:
    """What was sampled for each request of a client: what an engine broke off went on in a later request to it."""
    seen: list[tuple[list[int], list[int], list[float], list[int], float]] = []
    rest: dict[tuple[int, ...], int] = {}
    """By the prompt behind which it goes on, where in `seen` the beginning stands."""
    for asked in world.engine.requests:
        line, count = world.engine.answers[asked["rid"]], world.engine.sent[asked["rid"]]
        tokens = [line.ids[:count], line.logprobs[:count], [int(line.version)] * count]
        place = rest.pop(tuple(asked["input_ids"]), len(seen))
        if place == len(seen):
            seen.append((asked["input_ids"], [], [], [], asked["sampling_params"]["temperature"]))
        for whole, new in zip(seen[place][1:4], tokens, strict=True):
            whole.extend(new)
        left = world.engine.aborted[asked["rid"]].is_set()
        if line.finish["type"] == "abort" and not left:
            rest[(*asked["input_ids"], *tokens[0])] = place
    return [(ids, *sampled(*tokens), temperature) for ids, *tokens, temperature in seen]


def sampled(ids: Any, logprobs: Any, versions: Any) -> tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...]]:
    return tuple(ids), tuple(logprobs), tuple(versions)


def every_token_is_trained_once(world: World, calls: list[Call]) -> None:
    """Each completion stands behind its own prompt with mask 1 in one sequence, and no other token has mask 1."""
    laid = sequences(calls)
    seen = [one for one in engine_saw(world) if one[4] > 0]
    for prompt, ids, logprobs, versions, temperature in seen:
        start, end = len(prompt), len(prompt) + len(ids)
        holding = [
            sequence
            for sequence in laid
            if sequence.ids[:end].tolist() == [*prompt, *ids]
            and sequence.loss_mask[start:end].tolist() == [1] * len(ids)
            and sequence.logprobs[start:end].tolist() == list(logprobs)
            and sequence.weight_versions[start:end].tolist() == list(versions)
            and set(sequence.temperatures[start:end]) == {single(temperature)}
        ]
        assert len(holding) == (1 if ids else len(holding))
    assert sum(sum(sequence.loss_mask) for sequence in laid) == sum(len(one[1]) for one in seen)
    assert all(unread(sequence) for sequence in laid)


def single(value: float) -> float:
    """Return a number as float32 has it."""
    from nexrl.records import Float32s

    return Float32s([value])[0]


def unread(sequence: Sequence) -> bool:
    """Whether what is not trained has no logprob and no version."""
    places = [place for place, mask in enumerate(sequence.loss_mask) if not mask]
    return all(sequence.logprobs[place] == 0 and sequence.weight_versions[place] == -1 for place in places)


def chains_are_as_agents_meant_them(had: list[Expected], calls: list[Call]) -> None:
    by_id = {call.id: call for call in calls}
    reasons = {(one.call, one.reason) for one in drift(calls)}
    for expected in had:
        for call in (call for call in calls if call.response == expected.response):
            assert call.drift in expected.drifts, (call.drift, expected)
            assert call.agent == expected.agent
            if expected.continues is not None:
                assert call.parent, expected
                assert told(by_id[call.parent].reply) == told(expected.continues)
            if call.drift:
                assert (call.id, call.drift) in reasons


async def test_a_raw_prompt_without_the_end_of_the_sampled_turn_is_encoded_as_it_stands(world):
    world.says("it is")
    for prompt in ("hello ", "hello it is sunny", "hello it is<|im_end|> sunny"):
        await world.post({"prompt": prompt, "model": "m"}, path="/v1/completions")
        assert world.renderer.spelled(world.engine.requests[-1]["input_ids"]).decode() == prompt
    one, two, three = await world.recorded()
    assert (two.parent, two.drift, three.parent) == (None, None, one.id)


@pytest.mark.parametrize("attempt", ["a-1", "a-2"])
async def test_what_one_session_said_is_nothing_to_another(world, attempt):
    world.says("ok")
    reply = (await world.chat([{"role": "user", "content": "a"}]))["choices"][0]["message"]
    await world.chat([{"role": "user", "content": "a"}, reply, {"role": "user", "content": "b"}], attempt=attempt)
    call = (await world.recorded(attempt))[-1]
    assert (call.parent is not None, call.drift) == (attempt == "a-1", None)
