"""Saving: states, history, claims, manifests."""
