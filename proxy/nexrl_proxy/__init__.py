"""The proxy: dialects in, renderer, engine, reply and span out. Start reading at `app.py`."""
