"""Rendering of views: columns are declared once, and all formats are made from them."""
