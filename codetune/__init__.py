"""codetune turns a team's repositories into a code model of its own, and serves it."""

__version__ = "0.1.0"
