"""The README's code is code that runs."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

import zs2kit
from zs2kit import plugins
from zs2kit.testing import drawn_clip

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
sys.path.insert(0, str(ROOT / "samples"))
import gallery  # noqa: E402


def test_the_plugin_in_the_readme_works(tiny_folders, tmp_path, monkeypatch):
    source = re.search(r"```python\n# zs2kit_strokes.py\n(.*?)```", README, re.S)[1]
    (tmp_path / "zs2kit_strokes.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    from zs2kit_strokes import Strokes

    assert "width" in {option.name for option in plugins.options(Strokes)}
    plugin = Strokes(model=str(tiny_folders["epsilon"] / "controlnet_pose"), width=5)
    settings = {"model": tiny_folders["epsilon"], "num_inference_steps": 2}
    steered = [frame.image for frame in zs2kit.edit(drawn_clip(2), "a cat", plugins=[plugin], **settings)]
    free = [frame.image for frame in zs2kit.edit(drawn_clip(2), "a cat", plugins=(), **settings)]
    assert not np.array_equal(steered, free)


def test_every_plugin_has_its_picture():
    """One command each, which samples/gallery.py runs; pose has the README's first."""
    pictured = {name for arguments in gallery.commands().values() for name in named(arguments)} | {"pose"}
    assert pictured == set(plugins.installed())
    for name in gallery.commands():
        assert f"](docs/{name}.png)" in README


def named(arguments: list[str]) -> list[str]:
    return [name for flag, name in pairwise(arguments) if flag == "--plugin"]
