"""Rules: when a group is ready, and what of it is dropped and why."""

import time

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from ingest_world import call, finish, group
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from nexrl.records import Attempt, Float32s, Int32s, Outcome, Reward, decode, encode
from nexrl.spans import span_of
from nexrl_ingest.client import External
from nexrl_ingest.groups import waiting
from nexrl_ingest.groups.rules import RolloutFacts, Rule, Verdict, is_ready, judge
from nexrl_ingest.wire import LeaseReply, LeaseRequest

SECOND = 1_000_000_000
both_stores = pytest.mark.parametrize("store", ["embedded", "postgres"], indirect=True)


def rollout(index: int, reward: float | None = 0.0, *, failed: bool = False, oldest: int | None = 5) -> RolloutFacts:
    return RolloutFacts(index, failed, 0, {} if reward is None else {"total": reward}, oldest)


@pytest.mark.parametrize(
    ("rule", "finals_s", "now_s", "ready"),
    [
        (Rule(), [1, 2], 9, False),
        (Rule(), [1, 2, 3], 3, True),
        (Rule(quorum=2), [1], 9, False),
        (Rule(quorum=2), [1, 2], 2, True),
        (Rule(quorum=2, timeout_s=5), [4, 1], 8, False),
        (Rule(quorum=2, timeout_s=5), [4, 1], 9, True),
        (Rule(quorum=2, timeout_s=5), [1, 2, 3], 3, True),
        (Rule(quorum=7, timeout_s=5), [1, 2, 3], 3, True),
    ],
)
def test_a_group_of_three_is_ready_when_its_rule_says_so(rule, finals_s, now_s, ready):
    assert is_ready(rule, 3, [at * SECOND for at in finals_s], now_s * SECOND) is ready


TWO = [rollout(0, 1.0), rollout(1, 0.0)]


@pytest.mark.parametrize(
    ("rule", "rollouts", "verdict"),
    [
        (Rule(), TWO, Verdict()),
        (Rule(), [rollout(0)], Verdict(None, {1: "late"})),
        (Rule(), [rollout(0), rollout(1, failed=True)], Verdict()),
        (Rule(drop_failed=True), [rollout(0), rollout(1, failed=True)], Verdict(None, {1: "failed"})),
        (Rule(drop_failed=True), [rollout(0, failed=True)], Verdict("failed", {0: "failed", 1: "late"})),
        (Rule(drop_zero_advantage=True), TWO, Verdict()),
        (Rule(drop_zero_advantage=True), [rollout(0, 1.0), rollout(1, 1.0)], Verdict("zero-advantage")),
        (Rule(drop_zero_advantage=True), [rollout(0, 1.0), rollout(1, failed=True)], Verdict("zero-advantage")),
        (Rule(drop_zero_advantage=True), [rollout(0, None), rollout(1, 0.0)], Verdict("zero-advantage")),
        (Rule(min_reward_variance=0.25), TWO, Verdict()),
        (Rule(min_reward_variance=0.26), TWO, Verdict("low-variance")),
        (Rule(min_reward_variance=0.1, reward="style"), TWO, Verdict("low-variance")),
        (Rule(max_staleness=2), [rollout(0, oldest=8), rollout(1, oldest=None)], Verdict()),
        (Rule(max_staleness=2), [rollout(0, oldest=8), rollout(1, oldest=7)], Verdict("stale")),
        (
            Rule(max_staleness=2, drop_failed=True),
            [rollout(0, oldest=8), rollout(1, failed=True, oldest=0)],
            Verdict(None, {1: "failed"}),
        ),
    ],
)
def test_what_a_rule_drops_of_a_group_of_two_at_version_ten(rule, rollouts, verdict):
    assert judge(rule, 2, rollouts, 10) == verdict


def test_without_the_trainers_version_nothing_is_stale():
    assert judge(Rule(max_staleness=0), 2, [rollout(0, oldest=0), rollout(1, oldest=0)], None) == Verdict()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_a_group_is_dropped_for_zero_advantage_exactly_where_no_reward_differs(rewards):
    verdict = judge(Rule(drop_zero_advantage=True), len(rewards), [rollout(*pair) for pair in enumerate(rewards)], None)
    assert (verdict.dropped == "zero-advantage") == (len(set(rewards)) == 1)


async def rewarded(client, id_: str, *totals: float | None, run: str = "run-1", size: int | None = None) -> None:
    """A group whose rollouts end with these totals; None fails."""
    await client.put_group(group(id_, size=size or len(totals), run=run))
    for index, total in enumerate(totals):
        attempt = f"{id_}-{index}"
        await client.put_attempt(Attempt(id=attempt, group=id_, rollout=index))
        rewards = [] if total is None else [Reward(name="total", value=total)]
        await client.put_outcome(attempt, Outcome(status="failed" if total is None else "completed", rewards=rewards))


@both_stores
async def test_a_runs_rule_drops_groups_and_rollouts_and_the_run_says_how_many_and_why(client):
    await client.put_rule("run-1", Rule(drop_zero_advantage=True, drop_failed=True))
    await rewarded(client, "equal", 1.0, 1.0)
    await rewarded(client, "hopeless", None, None)
    await rewarded(client, "mixed", 1.0, 0.0, None)
    [leased] = await client.lease("run-1", limit=5)
    assert leased.group.group.id == "mixed"
    assert [item.rollout for item in leased.group.trajectories] == [0, 1]
    await client.ack([leased.lease])
    state = await client.run("run-1")
    assert state.groups == {"dropped": 2, "done": 1}
    assert state.rollouts == {"planned": 7, "completed": 4, "failed": 3}
    assert state.dropped == {"group:failed": 1, "group:zero-advantage": 1, "rollout:failed": 1}
    assert state.rule == Rule(drop_zero_advantage=True, drop_failed=True)
    assert await client.lease("run-1", steal=True, rule=Rule()) == []


@both_stores
async def test_a_quorum_leaves_the_late_out_for_good(client):
    await rewarded(client, "g", 1.0, 0.0, size=3)
    rule = Rule(quorum=2, timeout_s=0.3)
    assert await client.lease("run-1", rule=rule) == []
    started = time.monotonic()
    [first] = await client.lease("run-1", rule=rule, wait_s=5)
    assert time.monotonic() - started > 0.1
    await client.put_attempt(Attempt(id="late", group="g", rollout=2))
    await client.put_outcome("late", Outcome(status="completed"))
    await client.nack([first.lease])
    [again] = await client.lease("run-1")
    assert [item.rollout for item in again.group.trajectories] == [0, 1]
    assert (await client.run("run-1")).dropped == {"rollout:late": 1}


@both_stores
async def test_groups_sampled_by_weights_that_are_too_old_are_dropped(ingest, client):
    for name, version in (("old", 3), ("new", 8)):
        await ingest.send(call([1], [2, 3], session=f"{name}-0", weight_versions=Int32s([version, 9])))
        await rewarded(client, name, 1.0)
    leased = await client.lease("run-1", limit=5, rule=Rule(max_staleness=2), weight_version=10)
    assert [item.group.group.id for item in leased] == ["new"]
    assert (await client.run("run-1")).dropped == {"group:stale": 1}


@both_stores
async def test_a_lost_reply_is_asked_for_again_and_grants_the_same(ingest, client):
    await rewarded(client, "a", 1.0)
    await rewarded(client, "b", 1.0)
    asked = {"run": "run-1", "request": "step-1", "steal": True}

    async def grants() -> list[str]:
        async with ingest.http.post(
            f"{ingest.url}/api/groups/lease", json=asked, headers=ingest.admin(), auto_decompress=False
        ) as response:
            reply = decode(zstandard.ZstdDecompressor().decompress(await response.read()), LeaseReply)
            return [item.lease for item in reply.leased]

    first = await grants()
    assert (len(first), await grants()) == (1, first)
    [other] = await client.lease("run-1", limit=5)
    await client.ack([*first, other.lease])
    assert await grants() == []


@both_stores
async def test_an_answer_stops_before_it_is_larger_than_asked_and_says_that_more_are_ready(ingest, client, store):
    for name in ("a", "b", "c"):
        await ingest.send(
            call(range(20_000), [1], session=f"{name}-0", logprobs=Float32s([-1]), weight_versions=Int32s([1]))
        )
        await rewarded(client, name, 1.0)
    request = LeaseRequest(run="run-1", limit=3, max_mib=1.0)
    changes = waiting.Changes()
    first = await changes.wait_for_groups(store, request, gone=lambda: False)
    second = await changes.wait_for_groups(store, request, gone=lambda: False)
    assert [[item.group.group.id for item in reply.leased] for reply in (first, second)] == [["a", "b"], ["c"]]
    assert (first.more, second.more) == (True, False)
    await client.nack([item.lease for item in first.leased])
    tiny = await changes.wait_for_groups(store, LeaseRequest(run="run-1", limit=3, max_mib=1e-6), gone=lambda: False)
    assert (len(tiny.leased), tiny.more) == (1, True)
    assert waiting.size_of(first.leased[0].group) == pytest.approx(len(encode(first.leased[0])), rel=0.05)


@both_stores
async def test_sessions_that_nobody_planned_become_groups_of_their_own(ingest, client):
    await ingest.send(call([1], [2], session="mine"), call([3], [4], session="yours"))
    await ingest.send(call([5], [6], session="judged@eval"), call([5], [6], session="unattributed"))
    ask = {"name": "thumb", "value": 1}
    assert (await ingest.ask("POST", "/api/sessions/mine/rewards", json=ask))[0] == 200
    assert await client.lease("live", limit=9) == []
    assert await client.lease("live", limit=9, external=External(idle_s=600)) == []
    leased = await client.lease("live", limit=9, external=External(idle_s=0))
    assert [[one.session for one in item.group.trajectories] for item in leased] == [["mine"], ["yours"]]
    [trajectory] = leased[0].group.trajectories
    assert (trajectory.status, trajectory.rewards[0].name) == ("completed", "thumb")
    await client.ack([item.lease for item in leased])
    assert await client.lease("live", limit=9, external=External(idle_s=0)) == []


@both_stores
async def test_sessions_with_the_same_key_are_compared_once_there_are_enough(ingest, client):
    def keyed(session: str, key: str):
        span = span_of(call([1], [2], session=session), prompt_tokens=1)
        span.attributes.append(KeyValue(key="nexrl.group", value=AnyValue(string_value=key)))
        return span

    external = External(idle_s=0, group="key", size=2)
    await ingest.send(keyed("a", "k"), keyed("b", "other"), call([1], [2], session="keyless"))
    assert await client.lease("live", external=external) == []
    await ingest.send(keyed("c", "k"))
    [leased] = await client.lease("live", limit=9, external=external)
    assert [one.session for one in leased.group.trajectories] == ["a", "c"]
    assert leased.group.group.task.id == "k"


async def test_the_groups_of_a_run_come_in_pages_by_state_or_by_id(ingest, client):
    for index in range(5):
        await finish(client, group(f"g-{index}", size=1))
    await client.put_group(group("open"))
    status, page = await ingest.ask("GET", "/api/runs/run-1/groups?limit=2")
    assert (status, [item["id"] for item in page["groups"]]) == (200, ["g-0", "g-1"])
    _, rest = await ingest.ask("GET", f"/api/runs/run-1/groups?limit=9&after={page['next']}")
    assert ([item["id"] for item in rest["groups"]], rest["next"]) == (["g-2", "g-3", "g-4", "open"], None)
    _, unfinished = await ingest.ask("GET", "/api/runs/run-1/groups?state=open")
    assert [item["id"] for item in unfinished["groups"]] == ["open"]
    many = [f"g-{index}" for index in range(200)]
    assert [item.id for item in await client.groups("run-1", many)] == ["g-0", "g-1", "g-2", "g-3", "g-4"]
    assert await client.groups("run-1", []) == []
    odd = "a/b+c d&e=%2F?#é"
    await client.put_group(group(odd, run=odd))
    assert [item.id for item in await client.groups(odd, [odd])] == [odd]
    assert (await client.group(odd)).group.run == odd
    assert (await ingest.ask("GET", "/api/runs/run-1/groups?limit=0"))[0] == 400
    status, reply = await ingest.ask("GET", "/api/runs/run-1/groups?page=2")
    assert (status, "'page' is unknown" in reply["error"]["message"]) == (400, True)


@both_stores
async def test_a_runs_measures_add_up_its_rollouts_and_follow_late_calls(ingest, client):
    root = call([1, 2], [3], session="g-0")
    await ingest.send(root, call([4], [5], session="g-0", parent=root.id, drift="edited"))
    await rewarded(client, "g", 1.0)
    measured = (await client.run("run-1")).measures
    assert (measured.sessions, measured.calls, measured.merge_ratio, measured.drift_rate) == (1, 2, 2.0, 0.5)
    assert (measured.tokens, measured.trained, measured.trained_share) == (5, 2, 0.4)
    await ingest.send(call([9], [9], session="g-0"))
    assert (await client.run("run-1")).measures.calls == 3
    status, reply = await ingest.ask("GET", "/api/runs/nowhere")
    assert (status, "'nowhere'" in reply["error"]["message"]) == (404, True)
    assert (await ingest.ask("GET", "/api/runs"))[1] == {"runs": [{"run": "run-1", "groups": 1}], "next": None}
