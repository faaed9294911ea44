"""Help for authors of state backends."""
