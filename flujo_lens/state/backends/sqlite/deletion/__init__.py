"""Deleting runs, and restoring them."""
