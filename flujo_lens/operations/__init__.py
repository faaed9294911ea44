"""The use cases: async functions that take a backend and parameters and return a view."""
