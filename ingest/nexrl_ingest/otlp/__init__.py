"""OpenTelemetry's door: OTLP/HTTP requests decoded, judged span by span or record by record, and answered.

What a span is shown as is decided in `steps`, how it is sent on in `forwarding`.
Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""
