"""Base models: find, load, and the one prompt renderer."""
