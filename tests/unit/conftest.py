"""What tests of several parts ask for."""

from tests.unit.export.servers import hub, ollama

__all__ = ["hub", "ollama"]
