"""The Kubernetes runner: an agent that is a container image, in a Job of its own for each attempt."""
