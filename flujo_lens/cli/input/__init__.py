"""Parsing of questions, filters and arguments."""
