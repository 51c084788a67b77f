"""The served description: complete, from the same declarations as the routes, and true of a fuzzed server."""

import json
import os
import subprocess
import sys

import jsonschema
import pytest
from ingest_world import ADMIN_KEY, call, finish, group

from nexrl_ingest.app import ROUTES

EXAMPLES = 2
"""Per operation, besides those that cover each bound of each field."""
HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    # A lease that waits for an hour is right, and no answer to a fuzzer.
    if isinstance(case.body, dict) and isinstance(case.body.get("wait_s"), (int, float)) and case.body["wait_s"] > 0.1:
        case.body["wait_s"] = 0.1
"""


async def test_every_route_is_described_and_nothing_else(ingest):
    status, described = await ingest.ask("GET", "/openapi.json", headers={})
    assert (status, described["openapi"]) == (200, "3.1.0")
    operations = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    otlp = {("POST", path) for path in ("/v1/traces", "/v1/logs", "/v1/metrics")}
    assert operations == {(route.method, route.path) for route in ROUTES} | otlp
    ids = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


async def test_answers_are_of_the_described_shape(ingest, client):
    await ingest.send(call([1, 2], [3], session="group-1-0", tools=[{"type": "function"}]))
    await finish(client, group(size=1))
    _, described = await ingest.ask("GET", "/openapi.json")
    for path in (
        "/health",
        "/api/groups/{id}",
        "/api/runs",
        "/api/runs/{run}",
        "/api/runs/{run}/groups",
        "/api/sessions",
        "/api/sessions/{id}",
        "/api/sessions/{id}/trajectory",
        "/api/sessions/{id}/rewards",
    ):
        id_ = "group-1" if "groups/" in path else "group-1-0"
        status, answer = await ingest.ask("GET", path.replace("{id}", id_).replace("{run}", "run-1"))
        reply = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert status == 200
        jsonschema.validate(answer, reply | {"components": described["components"]})
    status, answer = await ingest.ask("GET", "/api/groups/nowhere")
    error = described["paths"]["/api/groups/{id}"]["get"]["responses"][str(status)]["content"]["application/json"]
    jsonschema.validate(answer, error["schema"] | {"components": described["components"]})


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs", "/v1/metrics"])
async def test_the_doors_of_otlp_answer_as_described(ingest, path):
    _, described = await ingest.ask("GET", "/openapi.json")
    operation = described["paths"][path]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/x-protobuf", "application/json"}
    headers = ingest.admin() | {"Content-Type": "application/json"}
    keyless = {"Content-Type": "application/json"}
    for body, given, expected in [({}, headers, 200), ([], headers, 400), ({}, keyless, 401)]:
        status, answer = await ingest.ask("POST", path, data=json.dumps(body), headers=given)
        assert status == expected
        jsonschema.validate(answer, operation["responses"][str(status)]["content"]["application/json"]["schema"])


@pytest.mark.parametrize("body", [b"\xc1", b"", b"[" * 5000, b'{"run": "\xff"}', b'{"run": "\\ud800"}'])
@pytest.mark.parametrize("content_type", ["application/json", "application/msgpack"])
async def test_a_body_that_is_nothing_is_the_clients_error(ingest, body, content_type):
    headers = ingest.admin() | {"Content-Type": content_type}
    for method, path in (("POST", "/api/groups/lease"), ("PUT", "/api/groups/g"), ("PUT", "/api/runs/r/rule")):
        status, reply = await ingest.ask(method, path, data=body, headers=headers)
        assert (status, reply["error"]["type"]) == (400, "invalid_request")


@pytest.mark.slow
def test_fuzzing_what_is_described_finds_no_server_error(tmp_path):
    (tmp_path / "hooks.py").write_text(HOOKS)
    service = subprocess.Popen(
        [sys.executable, "-m", "nexrl_ingest", "ingest", "--data", str(tmp_path / "data"), "--port", "0"],
        stdout=subprocess.PIPE,
        env=os.environ | {"NEXRL_ADMIN_KEY": ADMIN_KEY},
        text=True,
    )
    assert service.stdout
    try:
        url = service.stdout.readline().removeprefix("ready ").strip()
        fuzzed = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url),
                *("--header", f"Authorization: Bearer {ADMIN_KEY}", "--checks", "not_a_server_error"),
                *(
                    "--max-examples",
                    str(EXAMPLES),
                    "--seed",
                    "1",
                    "--phases",
                    "coverage,fuzzing",
                ),
                # Server-sent events have no end; the others answer at once.
                *("--exclude-path", "/api/events", "--request-timeout", "5", "--suppress-health-check", "all"),
                *("--workers", "2", "--no-color", "--generation-database", "none"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks"},
            timeout=120,
            check=False,
        )
        assert fuzzed.returncode == 0, fuzzed.stdout[-4000:] + fuzzed.stderr[-2000:]
    finally:
        service.terminate()
        service.wait(10)
        service.stdout.close()
