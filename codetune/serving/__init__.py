"""Serving: one engine Protocol, and what stands in front of every engine."""
