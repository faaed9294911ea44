"""Runs linear pipelines whose state survives the process: the steps, the registry, the engine."""
