"""What `bench/ingest.py` is made of: spans, stores to send them to, a process that sends, and what is measured."""
