"""What the files of a folder hold: how each kind is written and read."""
