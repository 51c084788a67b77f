"""Ingest: OTLP in, a durable store, chains and sequences, leased trajectories out. Start reading at `app.py`."""
