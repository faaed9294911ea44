"""Connections, threads, locks."""
