"""Rollouts: run the agent on tasks, judge what it did, hand finished groups to the loop."""
