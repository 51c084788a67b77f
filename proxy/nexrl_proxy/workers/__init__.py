"""Several proxies behind one port, each a process with its own event loop, sessions and spool.

A session lives in one worker. All workers accept; the `door` reads the head of each request before the HTTP server
does, `pinning` says whose it is, and `handover` gives the connection itself to that worker: nothing is passed through.
`peers` answers what concerns all workers. `worker` is one process, `supervisor` starts them and starts them again.
"""
