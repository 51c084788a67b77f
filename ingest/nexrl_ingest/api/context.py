"""What handlers find in the application: the store, the admin key, and who waits for changes."""

from aiohttp import web

from nexrl_ingest.groups.waiting import Changes
from nexrl_ingest.store import Store

STORE = web.AppKey("store", Store)
ADMIN_KEY = web.AppKey("admin_key", str)
CHANGES = web.AppKey("changes", Changes)
