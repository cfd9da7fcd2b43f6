"""Reports: what a result was drawn with, enough to draw it again, and how good it is, as JSON beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zs2kit import __version__, plugins
from zs2kit.beside import write_beside
from zs2kit.clip import Clip
from zs2kit.editing import Edit
from zs2kit.farm import FarmEdit
from zs2kit.filters import Filter, Filtered, filters_of, source_frames
from zs2kit.io import read
from zs2kit.metrics import measure

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


def drawn_with(
    edited: Edit | FarmEdit,
    about: Mapping[str, Any],
    *,
    config: str | None = None,
    loras: Mapping[str, float] | None = None,
    embeddings: Sequence[str] = (),
    vae: str | None = None,
    tiny_vae: str = "auto",
) -> dict[str, Any]:
    """Return an edit's settings, with what is known ``about`` how its source was read, and its model.

    The other arguments are those that its model was loaded with, as `Model.load` takes them.
    """
    known = edited.describe() or {}
    return {
        "settings": {**edited.settings.described(), **about},
        "model": {
            "name": known["model"],
            "weights": known["weights"],
            "config": config,
            "loras": dict(loras or {}),
            "embeddings": embeddings,
            "vae": vae,
            "tiny_vae": tiny_vae,
            "device": known["device"],
            "dtype": known["dtype"].removeprefix("torch."),
        },
    }


def filtered_with(made: Edit | FarmEdit | Filtered, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a clip that was only filtered, with what is known ``about`` how it was read."""
    known = made.describe() or {}
    dtype = known["dtype"].removeprefix("torch.")
    return {"settings": {"cuts": known["cuts"], **about, "device": known["device"], "dtype": dtype}}


def report_on(
    result: Path,
    made: Edit | FarmEdit | Filtered,
    source: Clip | None,
    about: Mapping[str, Any],
    *,
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Return what a report says of ``result``, the file that ``made`` was written to.

    source: what it was made of, to be compared with; None if it was made from text alone. about: further
    entries, such as those of `drawn_with`. chunk_size: how many frames are measured at once.

    Reads both clips. Raises what reading and measuring raise.
    """
    known = made.describe() or {}
    return {
        "result": os.fspath(result),
        **({"source": known["source"]} if source else {}),
        **about,
        **({"plugins": described(known["plugins"])} if "plugins" in known else {}),
        "filters": described(known.get("filters", {}), Filter),
        "metrics": measure(
            source_frames(read(result), filters_of(made), source), source, chunk_size=chunk_size
        ),
    }


def write_report(path: Path, command: Sequence[str], about: Mapping[str, Any]) -> None:
    """Write ``command``, what is known ``about`` the result, and all `versions` to ``path``.

    The file appears only when it is complete. Raises `ClipError` if it can't be written.
    """
    contents = {"command": list(command), **about, "versions": versions()}
    write_beside(path, (json.dumps(contents, indent=2) + "\n").encode())
