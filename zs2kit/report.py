"""Reports: what a result was drawn with, enough to draw it again, and how good it is, as JSON beside it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zs2kit import __version__, plugins
from zs2kit.beside import write_beside

# The libraries whose versions can change pixels
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "av", "opencv-python-headless")


def versions() -> dict[str, str]:
    """Return the versions of zs2kit, Python and the libraries that frames depend on, by name."""
    return {
        "zs2kit": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def described(
    options: Mapping[str, Mapping[str, Any]], base: type[plugins.Extension] = plugins.Plugin
) -> list[dict[str, Any]]:
    """Return the name, distribution, version and options of each plugin.

    options: by the plugin's name, or KIND:NAME where it has a name of its own. base: `zs2kit.Filter` for
    filters.
    """
    found = []
    for name, values in options.items():
        entry = plugins.installed(base)[plugins.parted(name)[0]]
        assert entry.dist is not None  # entry_points() always sets it
        found.append(
            {"name": name, "distribution": entry.dist.name, "version": entry.dist.version, "options": values}
        )
    return found


def write_report(path: Path, command: Sequence[str], about: Mapping[str, Any]) -> None:
    """Write ``command``, what is known ``about`` the result, and all `versions` to ``path``.

    The file appears only when it is complete. Raises `ClipError` if it can't be written.
    """
    contents = {"command": list(command), **about, "versions": versions()}
    write_beside(path, (json.dumps(contents, indent=2) + "\n").encode())
