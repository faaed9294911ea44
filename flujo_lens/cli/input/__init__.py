"""Questions, filters and arguments: what a person typed, as values."""
