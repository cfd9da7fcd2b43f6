"""zs2kit: training-free video editing with image diffusion models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zs2kit.clip import Clip as Clip
    from zs2kit.clip import Frame as Frame
    from zs2kit.errors import Zs2Error as Zs2Error
    from zs2kit.hookspecs import hookimpl as hookimpl
    from zs2kit.io import read as read
    from zs2kit.io import write as write
    from zs2kit.model import Model as Model
    from zs2kit.scan import edit as edit
    from zs2kit.scan import generate as generate

__version__ = "0.1.0"

# Public name -> module that defines it. Looked up on first use, so that `import zs2kit` costs nothing.
_PUBLIC = {
    "Clip": "zs2kit.clip",
    "Frame": "zs2kit.clip",
    "Model": "zs2kit.model",
    "Zs2Error": "zs2kit.errors",
    "edit": "zs2kit.scan",
    "generate": "zs2kit.scan",
    "hookimpl": "zs2kit.hookspecs",
    "read": "zs2kit.io",
    "write": "zs2kit.io",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zs2kit' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
