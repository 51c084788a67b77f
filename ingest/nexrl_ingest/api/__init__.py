"""The REST door: one module per group of routes, each route declared once for the server and for its description."""
