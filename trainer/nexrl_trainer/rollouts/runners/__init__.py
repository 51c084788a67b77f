"""Runners: ways to run an agent on a task. One protocol (`runner.py`), one file a runner."""
