"""The embedded engine: continuous batching in one torch process, behind the subset of SGLang's API that NexRL uses.

For laptops, tests and the quick start. Read `server.py` (the routes), then `scheduler.py` (the loop), then the rest.
"""
