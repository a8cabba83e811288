"""Brings a model out: merged into its base, in the formats of others, and compared with itself."""
