"""The contract and its drivers."""
