"""What a database has, whichever version wrote it; and migrating it."""
