"""Forwarding: everything stored, sent on to another OTLP endpoint (Phoenix, Langfuse, Jaeger, a Collector).

At least once, from what is stored, in order of arrival; nobody who sends to ingest ever waits for it.
"""
