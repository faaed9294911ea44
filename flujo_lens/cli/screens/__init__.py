"""What each command asks and prints: a module a command."""
