"""What `bench/proxy.py` measures: gateways, the scripted engine behind them, the load in front, and the figures."""
