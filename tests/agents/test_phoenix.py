"""A real Phoenix behind `nexrl ingest --forward`: calls and steps appear there with their messages, without tokens."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_environments import InstallError, python_of
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from nexrl.keys import new_admin_key
from nexrl.records import Call, Float32s, Int32s
from nexrl.spans import span_bytes
from nexrl_trainer.services.process import ServiceProcess

PATIENCE_S = 180
TRACE, STEP, CALL = b"t" * 16, b"step----", b"call----"
CLOCK_NS = 1_700_000_000_000_000_000


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def get(url: str):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read()


def until(attempt, what: str):
    """Return the first answer that is something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if found := attempt():
                return found
        time.sleep(0.5)
    pytest.fail(f"{what} within {PATIENCE_S} s")


@pytest.fixture
def phoenix(show, tmp_path: Path) -> Iterator[str]:
    try:
        python = python_of("phoenix", show)
    except InstallError as error:
        pytest.fail(str(error), pytrace=False)
    port = free_port()
    environment = os.environ | {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_WORKING_DIR": str(tmp_path),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    with (tmp_path / "phoenix.log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-m", "phoenix.server.main", "serve"], env=environment, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: get(f"{url}/healthz") is not None, "Phoenix did not start")
        yield url
    finally:
        process.kill()
        process.wait()


def spans() -> bytes:
    """A tool's span, and a call of the model in the same trace."""
    call = Call(
        id=CALL.hex(),
        session="session-1",
        prompt_delta=Int32s([1, 2, 3]),
        completion=Int32s([4, 5]),
        logprobs=Float32s([-0.5, -0.25]),
        weight_versions=Int32s([1, 1]),
        model="qwen3",
        messages=[{"role": "user", "content": "How is the weather in Bern?"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        reply={"role": "assistant", "content": "It is sunny."},
        started_ns=CLOCK_NS,
        ended_ns=CLOCK_NS + 10**9,
    )
    kind = KeyValue(key="openinference.span.kind", value=AnyValue(string_value="TOOL"))
    tool = Span(
        trace_id=TRACE,
        span_id=STEP,
        name="weather",
        start_time_unix_nano=CLOCK_NS,
        end_time_unix_nano=CLOCK_NS + 1,
        attributes=[kind],
    )
    made = Span.FromString(span_bytes(call, prompt_tokens=3, trace_id=TRACE, parent_span=STEP))
    scopes = [ScopeSpans(spans=[tool, made])]
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=scopes)]).SerializeToString()


def test_calls_and_steps_appear_in_phoenix_with_their_messages_and_without_tokens(phoenix, tmp_path):
    key, nexrl = new_admin_key(), Path(sys.executable).with_name("nexrl")
    command = [nexrl, "ingest", "--data", tmp_path / "ingest", "--port", "0", "--exit-with-parent"]
    service = ServiceProcess(
        "ingest",
        list(map(str, [*command, "--forward", phoenix])),
        str(tmp_path / "ingest.log"),
        {"NEXRL_ADMIN_KEY": key},
    )
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-protobuf"}
    try:
        urllib.request.urlopen(urllib.request.Request(f"{service.url()}/v1/traces", spans(), headers)).close()

        def both():
            found = json.loads(get(f"{phoenix}/v1/projects/default/spans"))["data"]
            return {span["name"]: span for span in found} if len(found) == 2 else None

        seen = until(both, "Phoenix did not show two spans")
    finally:
        service.stop()
    call, tool = seen["chat qwen3"], seen["weather"]
    assert (call["span_kind"], tool["span_kind"]) == ("LLM", "TOOL")
    assert call["parent_id"] == tool["context"]["span_id"] == STEP.hex()
    told = call["attributes"]
    assert told["llm.input_messages.0.message.content"] == "How is the weather in Bern?"
    assert told["llm.output_messages.0.message.content"] == "It is sunny."
    assert json.loads(told["llm.tools.0.tool.json_schema"])["function"]["name"] == "weather"
    assert (told["llm.token_count.prompt"], told["llm.token_count.completion"]) == (3, 2)
    assert told["session.id"] == "session-1"
    assert not [name for name in told if name.startswith("nexrl.tokens")]
