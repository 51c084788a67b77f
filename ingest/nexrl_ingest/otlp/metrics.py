"""Metrics, which are not kept: counted, so that the reply can say so.

A 404 would make every exporter log an error each minute; a partial success is what OTLP has for this, and exporters
neither repeat nor shout.
"""

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

NOT_KEPT = "NexRL keeps no metrics: set OTEL_METRICS_EXPORTER=none, or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT elsewhere"
_KINDS = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


def count(request: ExportMetricsServiceRequest) -> int:
    """Return the number of data points."""
    metrics = (
        metric for found in request.resource_metrics for scope in found.scope_metrics for metric in scope.metrics
    )
    return sum(len(getattr(metric, kind).data_points) for metric in metrics for kind in _KINDS if metric.HasField(kind))


def response(points: int) -> ExportMetricsServiceResponse:
    if not points:
        return ExportMetricsServiceResponse()
    return ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=points, error_message=NOT_KEPT)
    )
