"""Questions and output of each command: one module per command."""
