"""Rollouts of an agent in a cluster, with real proxy, ingest and judge; the cluster is one of `kubernetes_world`."""

import sys

import pytest
import yaml
from kubernetes_world import cluster_at
from rollout_world import rollout_world

pytestmark = pytest.mark.slow
AGENT = """
import json, os, sys, urllib.request
body = json.dumps({"model": os.environ["OPENAI_MODEL"], "messages": [{"role": "user", "content": sys.argv[1]}]})
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
reply = json.load(urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers)))
print("thinking ...")
print(reply["choices"][0]["message"]["content"])
sys.exit(sys.argv[2] == "fail")
"""
REWARD = """
import nexrl

@nexrl.reward
def judged(answer, stdout):
    return float(stdout == "thinking ...\\n" + answer + "\\n")
"""


async def test_rollouts_in_a_cluster_are_captured_judged_and_tried_again(tmp_path, monkeypatch):
    container = {"name": "agent", "image": "agent", "command": [sys.executable, "-S", "-c", AGENT, "{word}", "{end}"]}
    spec = {"template": {"spec": {"containers": [container]}}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"apiVersion": "batch/v1", "kind": "Job", "spec": spec}))
    (tmp_path / "reward.py").write_text(REWARD)
    async with rollout_world(tmp_path) as world, cluster_at(tmp_path) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        kubernetes = {"template": "job.yaml", "proxy": world.services.proxy, "ingest": world.services.ingest}
        async with world.attempts(tmp_path, kubernetes=kubernetes, answer="last_line", attempts=2) as running:
            good = await world.rollouts(running, "good", size=2, word="hello", end="well")
            bad = await world.rollouts(running, "bad", word="hello", end="fail")
        for item in good.attempts:
            assert (item.outcome.status, item.outcome.calls, item.outcome.final) == ("completed", 1, True)
            assert {reward.name: reward.value for reward in item.rewards} == {"judged": 1.0, "total": 1.0}
            [call] = await world.ingest.calls(item.attempt.id)
            assert call.messages[-1]["content"] == "hello"
            assert await world.call(item.attempt.id) == 403
        assert [(item.outcome.status, item.outcome.calls, item.outcome.final) for item in bad.attempts] == [
            ("failed", 1, False),
            ("failed", 1, True),
        ]
        assert "agent: exit code 1: thinking ..." in bad.attempts[-1].outcome.reason
        assert not any(cluster.objects.values())
