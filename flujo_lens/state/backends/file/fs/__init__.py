"""Locks and atomic writes."""
