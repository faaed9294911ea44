"""Deleting runs from a folder, and restoring them."""
