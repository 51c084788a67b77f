"""Feedback that comes a day after: sessions of external clients, votes by key and time, groups to train on."""

import time

import pytest
from ingest_world import ADMIN_KEY, call

import nexrl
from nexrl.errors import AccessError
from nexrl.keys import reward_grant, trainer_key
from nexrl.records import Reward
from nexrl_ingest.client import External

DAY_NS = 86_400 * 10**9


@pytest.fixture(autouse=True)
def application(ingest, monkeypatch):
    """An application that knows where ingest is and holds no key of any kind."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "BAGGAGE", "NEXRL_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEXRL_INGEST_URL", ingest.url)


async def answered(ingest, *, group, completion):
    """One user was answered: the model call as the proxy sends it to ingest; return the session's id."""
    with nexrl.session(group=group) as session:
        made = call([1, 2], completion, session=session.id, group=session.group)
    await ingest.send(made)
    return session.id


async def test_votes_of_a_day_later_make_a_training_group_of_what_production_did(ingest, client):
    external = External(idle_s=0, group="key", size=2)
    liked = await answered(ingest, group="refund", completion=[3, 4])
    other = await answered(ingest, group="delivery", completion=[9])
    assert await client.lease("live", external=external) == []
    disliked = await answered(ingest, group="refund", completion=[5])

    tomorrow = time.time_ns() + DAY_NS
    for _ in range(2):  # a click that is sent twice
        assert await nexrl.emit_reward_async(
            "vote",
            1,
            session=liked,
            id="click-1",
            by="user-7",
            at_ns=tomorrow,
            key=trainer_key(ADMIN_KEY),
            required=True,
        )
    grant = reward_grant(disliked, ADMIN_KEY)
    assert await nexrl.emit_reward_async("vote", -1, session=disliked, by="user-8", key=grant, required=True)

    [leased] = await client.lease("live", limit=9, external=external)
    assert (leased.group.group.task.id, leased.group.group.size) == ("refund", 2)
    first, second = leased.group.trajectories
    assert (first.session, second.session) == (liked, disliked)
    assert first.rewards == [Reward(name="vote", value=1.0, by="user-7", id="click-1", at_ns=tomorrow)]
    assert [(reward.name, reward.value, reward.by) for reward in second.rewards] == [("vote", -1.0, "user-8")]
    assert [list(one.sequences[0].ids) for one in leased.group.trajectories] == [[1, 2, 3, 4], [1, 2, 5]]
    assert [list(one.sequences[0].loss_mask) for one in leased.group.trajectories] == [[0, 0, 1, 1], [0, 0, 1]]

    await client.ack([leased.lease])
    assert await client.lease("live", limit=9, external=external) == []
    [waiting] = await client.sessions(session=other)
    assert (waiting.group, waiting.status) == (None, "open")


async def test_a_grant_reaches_its_own_session_and_cannot_say_when(ingest):
    session = await answered(ingest, group="refund", completion=[3])
    grant = reward_grant(session, ADMIN_KEY)
    with pytest.raises(AccessError, match="does not reach session 'another'"):
        await nexrl.emit_reward_async("vote", 1, session="another", key=grant, required=True)
    with pytest.raises(AccessError, match="cannot say when"):
        await nexrl.emit_reward_async("vote", 1, session=session, key=grant, at_ns=1, required=True)


async def test_a_vote_that_overtakes_the_spans_is_kept(ingest, client):
    grant = reward_grant("early", ADMIN_KEY)
    assert await nexrl.emit_reward_async("vote", 1, session="early", key=grant, required=True)
    await ingest.send(call([1], [2], session="early"))
    [leased] = await client.lease("live", external=External(idle_s=0))
    assert [(one.session, one.rewards[0].value) for one in leased.group.trajectories] == [("early", 1.0)]
