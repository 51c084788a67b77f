"""The OTLP doors in the OpenAPI description: what goes in and out, and of which type; what it says is OTLP's own.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from typing import Any

from nexrl_ingest.access import REPORTERS
from nexrl_ingest.otlp.bodies import JSON, PROTOBUF
from nexrl_ingest.refusals import (
    ForbiddenError,
    RefusedError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

TRACES, LOGS, METRICS = "/v1/traces", "/v1/logs", "/v1/metrics"
_DOORS = {
    TRACES: ("traces", "resourceSpans", "Store spans; 200 means durable."),
    LOGS: ("logs", "resourceLogs", "Keep records named gen_ai.evaluation.result as rewards; no others are kept."),
    METRICS: ("metrics", "resourceMetrics", "Count data points and say that none is kept."),
}
_REFUSALS = (
    *(RefusedError, UnauthenticatedError, ForbiddenError, TooLargeError, UnsupportedError),
    UnavailableError,
)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_STATUS = {"type": "object", "properties": {"code": {"type": "integer"}, "message": {"type": "string"}}}
_PARTIAL = {"type": "object", "properties": {"partialSuccess": {"type": "object"}}}


def paths() -> dict[str, Any]:
    """Return the doors as an OpenAPI document's paths."""
    return {path: {"post": _operation(*door)} for path, door in _DOORS.items()}


def _operation(signal: str, field: str, summary: str) -> dict[str, Any]:
    request = {"type": "object", "properties": {field: {"type": "array", "items": {"type": "object"}}}}
    return {
        "operationId": f"export_{signal}",
        "summary": summary,
        "description": f"OTLP/HTTP; Content-Encoding identity, gzip, deflate or zstd. Keys let in: "
        f"{', '.join(sorted(REPORTERS))}.",
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": _in_both(request)},
        "responses": {
            "200": {"description": "Kept, but for what a partial success counts.", "content": _in_both(_PARTIAL)},
            **{
                str(error.status): {"description": "A `google.rpc.Status`.", "content": _in_both(_STATUS)}
                for error in _REFUSALS
            },
        },
    }


def _in_both(schema: dict[str, Any]) -> dict[str, Any]:
    return {PROTOBUF: _BINARY, JSON: {"schema": schema}}
