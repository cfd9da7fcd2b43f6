"""The README's code is code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import zs2kit
from zs2kit import plugins
from zs2kit.testing import drawn_clip

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_plugin_in_the_readme_works(tiny_folders, tmp_path, monkeypatch):
    source = re.search(r"```python\n# zs2kit_edges.py\n(.*?)```", README, re.S)[1]
    (tmp_path / "zs2kit_edges.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    from zs2kit_edges import Edges

    assert "low" in {option.name for option in plugins.options(Edges)}
    plugin = Edges(network=str(tiny_folders["epsilon"] / "controlnet_pose"), low=20)
    settings = {"model": tiny_folders["epsilon"], "num_inference_steps": 2}
    steered = [frame.image for frame in zs2kit.edit(drawn_clip(2), "a cat", plugins=[plugin], **settings)]
    free = [frame.image for frame in zs2kit.edit(drawn_clip(2), "a cat", **settings)]
    assert not np.array_equal(steered, free)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target


@pytest.mark.parametrize("command", re.findall(r"^(?:\.venv/bin/)?zs2kit (\w+)", README, re.M))
def test_commands_exist(command):
    from zs2kit.cli import main

    assert command in main.commands
