"""Where factorisations are kept: beside the modules, not in them, so that a module that has run is the same as before."""

from __future__ import annotations

import threading
import weakref

from torch import nn

from wellposed.operators.cache import FactorisationCache

_caches: weakref.WeakKeyDictionary[nn.Module, FactorisationCache] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def factorisation_cache(module: nn.Module) -> FactorisationCache:
    """The factorisations of one module's weights; never part of its state, its copies or its pickles."""
    with _lock:
        return _caches.setdefault(module, FactorisationCache())
