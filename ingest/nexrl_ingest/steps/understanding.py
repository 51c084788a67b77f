"""From a span to a step: the first convention that it follows says what it means. Pure."""

from typing import Any, Literal

from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nexrl.spans import attributes_of
from nexrl_ingest.steps import genai, openinference, openllmetry
from nexrl_ingest.steps.step import Meaning, Step
from nexrl_ingest.steps.values import Attributes, shown, text

Convention = Literal["openinference", "gen_ai", "openllmetry", "none"]
_SERVICE = "service.name"


def understand(span: Span, resource: Resource | None = None) -> Step:
    """Return what a span tells; of a span that follows no convention, its name, its times and its error."""
    attributes = attributes_of(span)
    convention, meaning = _meaning(attributes)
    services = (item.value.string_value for item in (resource.attributes if resource else ()) if item.key == _SERVICE)
    return Step(
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex() or None,
        trace=span.trace_id.hex(),
        kind=meaning.kind,
        name=meaning.name or span.name,
        convention=convention,
        model=meaning.model,
        input=shown(meaning.input),
        output=shown(meaning.output),
        usage=meaning.usage,
        error=_error(span, attributes),
        service=next(services, ""),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        duration_ms=max(0, span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
    )


def _meaning(attributes: Attributes) -> tuple[Convention, Meaning]:
    if found := openinference.meaning(attributes):
        return "openinference", found
    if found := genai.meaning(attributes):
        return "gen_ai", found
    if found := openllmetry.meaning(attributes):
        return "openllmetry", found
    return "none", Meaning(kind="other")


def _error(span: Span, attributes: Attributes) -> str | None:
    if span.status.code != Status.STATUS_CODE_ERROR:
        return None
    raised: list[Any] = [
        item.value.string_value for event in span.events for item in event.attributes if item.key == "exception.message"
    ]
    return span.status.message or next(filter(None, raised), "") or text(attributes, "error.type") or "error"
