"""Durable runs of linear pipelines: steps, registry and engine."""
