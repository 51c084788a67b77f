"""What handlers find in the application: the store, the admin key, and who waits for changes."""

from collections import Counter

from aiohttp import web

from nexrl_ingest.groups.waiting import Changes
from nexrl_ingest.store import Store

STORE = web.AppKey("store", Store)
ADMIN_KEY = web.AppKey("admin_key", str)
FIGURES: web.AppKey[Counter[str]] = web.AppKey("figures", Counter)
"""What happened since this process began, for `/metrics`."""
CHANGES = web.AppKey("changes", Changes)
