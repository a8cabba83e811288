"""The parts of serving put together for this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codetune.artifacts import home
from codetune.registry.cards import Registry
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions

if TYPE_CHECKING:
    from codetune.registry.ownership import Owners


def local_completer(options: ServingOptions, owners: Owners | None = None) -> Completer:
    """A completer with the embedded engine, those of the options, and $CODETUNE_HOME's models.

    With `owners`, everybody sees their own models and those that are shared with them.
    """
    from codetune.serving.engines.local import LocalEngine

    catalog = Catalog(Registry(home()), options.base, owners)
    if not options.engines:
        return Completer(LocalEngine(options), catalog, options)
    from codetune.serving.engines.remote import RemoteEngine
    from codetune.serving.engines.router import Router

    remotes = {each.name: RemoteEngine(each, options) for each in options.engines}
    return Completer(Router(LocalEngine(options), remotes), catalog, options, remotes)
