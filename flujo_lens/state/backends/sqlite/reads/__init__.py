"""Reading runs from tables of any version."""
