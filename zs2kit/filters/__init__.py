"""Filters: they make a new clip from a clip, after an edit or on its own.

`zs2kit.filters.base` defines what a filter is, and `zs2kit.filters.filtered` takes a clip through one. The
other modules are the filters that come with zs2kit.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zs2kit.filters.base import Filter as Filter
    from zs2kit.filters.base import Passage as Passage
    from zs2kit.filters.base import declared as declared
    from zs2kit.filters.diffuse import Diffuse as Diffuse
    from zs2kit.filters.filtered import Filtered as Filtered
    from zs2kit.filters.filtered import filters_of as filters_of
    from zs2kit.filters.filtered import source_frames as source_frames
    from zs2kit.filters.filtered import through as through
    from zs2kit.filters.smooth import Smooth as Smooth
    from zs2kit.filters.steady import Steady as Steady
    from zs2kit.filters.upscale import Upscale as Upscale

# Looked up on first use, since the command line lists filters before torch is imported.
_MODULES = {
    "Diffuse": "diffuse",
    "Filter": "base",
    "Filtered": "filtered",
    "Passage": "base",
    "Smooth": "smooth",
    "Steady": "steady",
    "Upscale": "upscale",
    "declared": "base",
    "filters_of": "filtered",
    "source_frames": "filtered",
    "through": "filtered",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'zs2kit.filters' has no attribute {name!r}")
    return getattr(import_module(f"zs2kit.filters.{_MODULES[name]}"), name)
