"""Listing a folder: its tables, their cache, and selecting runs."""
