"""What `nexrl` does with ingest from the terminal, and what its commands read and write."""
