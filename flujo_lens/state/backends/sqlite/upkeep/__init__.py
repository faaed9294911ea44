"""Checks, repairs, indexes, backups and vacuum."""
