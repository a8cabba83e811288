"""The HTTP API: a thin translation of each dialect onto one internal query."""
