"""zs2kit: training-free video editing with image diffusion models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zs2kit.clip import Frame as Frame
    from zs2kit.editing import Edit as Edit
    from zs2kit.editing import edit as edit
    from zs2kit.editing import generate as generate
    from zs2kit.errors import Notice as Notice
    from zs2kit.errors import Stopped as Stopped
    from zs2kit.errors import Zs2Error as Zs2Error
    from zs2kit.errors import notify as notify
    from zs2kit.filters import Filter as Filter
    from zs2kit.filters import Filtered as Filtered
    from zs2kit.hookspecs import hookimpl as hookimpl
    from zs2kit.io import Output as Output
    from zs2kit.io import read as read
    from zs2kit.io import write as write
    from zs2kit.io.showing import Clip as Clip
    from zs2kit.model import Model as Model
    from zs2kit.plugins import Plugin as Plugin
    from zs2kit.progress import Progress as Progress
    from zs2kit.progress import ProgressBar as ProgressBar
    from zs2kit.settings import Settings as Settings
    from zs2kit.settings import option as option

__version__ = "0.2.0"

# Public name -> module that defines it. Looked up on first use, so that `import zs2kit` costs nothing.
_PUBLIC = {
    "Clip": "zs2kit.io.showing",  # where it learns to show itself in notebooks
    "Edit": "zs2kit.editing",
    "Filter": "zs2kit.filters.base",
    "Filtered": "zs2kit.filters.filtered",
    "Frame": "zs2kit.clip",
    "Model": "zs2kit.model",
    "Notice": "zs2kit.errors",
    "Output": "zs2kit.io",
    "Plugin": "zs2kit.plugins",
    "Progress": "zs2kit.progress",
    "ProgressBar": "zs2kit.progress",
    "Settings": "zs2kit.settings",
    "Stopped": "zs2kit.errors",
    "Zs2Error": "zs2kit.errors",
    "edit": "zs2kit.editing",
    "generate": "zs2kit.editing",
    "hookimpl": "zs2kit.hookspecs",
    "notify": "zs2kit.errors",
    "option": "zs2kit.settings",
    "read": "zs2kit.io",
    "write": "zs2kit.io",
}
# Modules that `import zs2kit` alone is enough for
_MODULES = ("errors", "filters", "io", "metrics", "plan", "plugins", "sheet", "testing", "verify")
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"zs2kit.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zs2kit' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__, *_MODULES]
