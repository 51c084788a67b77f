"""The parts of `bench/trainer.py`: one step of GRPO by several trainers, each in a process of its own."""
