"""What every driver shares, and all that a new one stands on."""
