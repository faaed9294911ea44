"""Workflow states: the model, the views, the drivers."""
