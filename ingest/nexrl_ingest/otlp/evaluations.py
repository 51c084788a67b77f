"""Log records named `gen_ai.evaluation.result`, read as judgements: rewards whose session may have to be looked up.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-events/#event-gen_aievaluationresult. Pure; where a
judgement goes is `judging.py`'s part. No other log record is kept: a session view shows none, and a sender that is told
so can stop sending.
"""

import hashlib
import math
from collections.abc import Iterable

from msgspec import Struct
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from nexrl import attributes as at
from nexrl.errors import PayloadError
from nexrl.records import Reward
from nexrl.spans import python_value
from nexrl_ingest.otlp import bodies, naming

EVENT = "gen_ai.evaluation.result"
NAME = "gen_ai.evaluation.name"
VALUE = "gen_ai.evaluation.score.value"
LABEL = "gen_ai.evaluation.score.label"
EXPLANATION = "gen_ai.evaluation.explanation"
LONGEST_NAME = 200
_EVENT_NAME, _SERVICE = "event.name", "service.name"
_RESERVED = frozenset({"trainer", "agent"})
"""Judges that only their keys can name."""


class Judgement(Struct, frozen=True, kw_only=True):
    """A reward, and what it points to."""

    session: str | None
    """The session it names; None where its trace has to tell."""
    trace_id: bytes
    span_id: bytes
    response: str | None
    """The id of the model's reply that was judged."""
    reward: Reward


def judgements(request: ExportLogsServiceRequest, attempt: str | None) -> tuple[list[Judgement], list[str]]:
    """Return the judgements of a request, and a reason for each log record that is none.

    Raises ForbiddenError where an attempt key reports for another attempt.
    """
    found: list[Judgement] = []
    errors: list[str] = []
    for logs in request.resource_logs:
        for record in (record for scope in logs.scope_logs for record in scope.log_records):
            try:
                found.append(_judgement(record, logs.resource, attempt))
            except PayloadError as error:
                errors.append(bodies.printable(str(error)))
    return found, errors


def response(errors: list[str]) -> ExportLogsServiceResponse:
    """Return the reply of a 200: empty, or how many records were rejected and why."""
    if not errors:
        return ExportLogsServiceResponse()
    rejected = ExportLogsPartialSuccess(rejected_log_records=len(errors), error_message=bodies.summary(errors))
    return ExportLogsServiceResponse(partial_success=rejected)


def _judgement(record: LogRecord, resource: Resource, attempt: str | None) -> Judgement:
    values = {item.key: python_value(item.value) for item in record.attributes}
    if (event := record.event_name or values.get(_EVENT_NAME)) != EVENT:
        raise PayloadError(f"a log record named {str(event or '')[:80]!r} is not kept: only {EVENT} is, as a reward")
    own, shared = naming.texts_of(record.attributes), naming.texts_of(resource.attributes)
    session = naming.session_of(own, shared, attempt)
    pointing = bool(record.trace_id or record.span_id)
    if pointing:
        naming.check_ids(record.trace_id, record.span_id or b"unknown.", lambda: f"{EVENT} {values.get(NAME)!r}")
    if not session and not pointing:
        raise PayloadError(f"{EVENT} {values.get(NAME)!r} names no session and no trace: set {at.SESSION}")
    return Judgement(
        session=session,
        trace_id=record.trace_id,
        span_id=record.span_id,
        response=_text(values, at.RESPONSE_ID),
        reward=Reward(
            name=_name(values),
            value=_score(values),
            by="agent" if attempt else _judge(resource),
            at_ns=record.time_unix_nano or record.observed_time_unix_nano,
            # The same record, delivered again, is the same reward.
            id=hashlib.sha256(record.SerializeToString(deterministic=True)).hexdigest()[:32],
            explanation=_text(values, EXPLANATION) or _text(values, LABEL) or "",
        ),
    )


def _name(values: dict[str, object]) -> str:
    name = _text(values, NAME)
    if not name or len(name) > LONGEST_NAME:
        raise PayloadError(f"{EVENT}: {NAME} is {str(name)[:80]!r}; give a name of 1 to {LONGEST_NAME} characters")
    return name


def _score(values: dict[str, object]) -> float:
    value = values.get(VALUE)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PayloadError(
            f"{EVENT} {str(values.get(NAME))[:80]!r}: {VALUE} is {str(value)[:80]!r}; a reward is a finite number"
        )
    return float(value)


def _text(values: dict[str, object], name: str) -> str | None:
    value = values.get(name)
    # No database keeps a NUL in a text.
    return value.replace("\0", "") if isinstance(value, str) and value else None


def _judge(resource: Resource) -> str:
    """Return who judged: the service that says so."""
    names: Iterable[str] = (item.value.string_value for item in resource.attributes if item.key == _SERVICE)
    name = next(names, "")[:LONGEST_NAME].replace("\0", "")
    return "evaluator" if not name or name in _RESERVED else name
