"""Locks, atomic writes and syncs, for every room that writes files. Only `OSError` comes out."""
