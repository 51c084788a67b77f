"""An agent's own OpenTelemetry spans land in its session by nothing but the environment it is started with."""

import asyncio
import os
import sys

from ingest_world import ADMIN_KEY, call

from nexrl.keys import attempt_key
from nexrl_trainer.rollouts.runners.environment import agent_environment
from nexrl_trainer.rollouts.runners.runner import Services

AGENT = """
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
import nexrl

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
with provider.get_tracer("agent").start_as_current_span("search") as span:
    span.set_attribute("gen_ai.operation.name", "execute_tool")
nexrl.emit_reward("found", 1, required=True)
"""


async def test_tool_spans_and_rewards_of_an_agent_are_in_its_attempts_session(ingest, client, monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    key = attempt_key("run:1-r00@eval", ADMIN_KEY)
    environment = agent_environment(Services(proxy="http://127.0.0.1:1", ingest=ingest.url, model="m"), key, {})
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", AGENT, env=environment)
    assert await agent.wait() == 0
    await ingest.send(call([1], [2], session="run:1-r00@eval"))
    [reward] = await client.rewards("run:1-r00@eval")
    assert (reward.name, reward.value, reward.by) == ("found", 1.0, "agent")
    assert [step["name"] for step in (await client.session("run:1-r00@eval"))["steps"]] == ["search"]
