"""Checking a folder, and repairing it."""
