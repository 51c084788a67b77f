"""A service's counters as Prometheus reads them (its text format, version 0.0.4)."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposed(service: str, figures: Mapping[str, int], gauges: Collection[str] = ()) -> bytes:
    """Return figures as `nexrl_SERVICE_NAME`: counters, but for the named gauges, which also fall."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Figures(Collector):
        def collect(self) -> Iterator[Metric]:
            for name, value in sorted(figures.items()):
                kind: Any = GaugeMetricFamily if name in gauges else CounterMetricFamily
                yield kind(f"nexrl_{service}_{name}", f"NexRL {service}: {name.replace('_', ' ')}", value=value)

    registry = CollectorRegistry()
    registry.register(Figures())
    return generate_latest(registry)
