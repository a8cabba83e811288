"""The parts of serving put together for this machine."""

from __future__ import annotations

from codetune.artifacts import home
from codetune.registry.cards import Registry
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions


def local_completer(options: ServingOptions) -> Completer:
    """A completer with the embedded engine and the models of $CODETUNE_HOME."""
    from codetune.serving.engines.local import LocalEngine

    catalog = Catalog(Registry(home()), options.base)
    return Completer(LocalEngine(options), catalog, options)
