"""The use cases: async functions of a backend and parameters that return a view."""
