"""The trainer: recipe -> rollouts -> batches -> train service -> weight publication. Start reading at `loop.py`."""
