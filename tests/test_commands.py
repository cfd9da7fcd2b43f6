"""The commands of the README and the docs work; at few steps, and on clips of few frames."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

import commands
import pytest
from click.testing import CliRunner

from zs2kit.cli import main

STEPS, FRAMES = 2, 3


def of_zs2kit(page: Path) -> list[commands.Command]:
    """The page's commands that begin with zs2kit, without those that need another package installed."""
    return [
        each
        for each in commands.commands(page)
        if each.line.startswith("zs2kit ") and not re.search(r"\bcd (?!zs2kit )", each.before)
    ]


PAGES = [page for page in commands.PAGES if of_zs2kit(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = commands.prepare(tmp_path, page, FRAMES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", variables["HF_HUB_CACHE"])
    monkeypatch.setenv("HOME", variables["HOME"])
    monkeypatch.chdir(tmp_path)
    for command in of_zs2kit(page):
        exported = {
            name: os.path.expanduser(value) for name, value in re.findall(r"(\w+)=(\S+)", command.before)
        }
        with commands.earlier_results_aside(command, tmp_path):
            words = [
                each for word in commands.words(command.line)[1:] for each in (glob.glob(word) or [word])
            ]
            few = {"ZS2KIT_STEPS": str(STEPS)}
            ran = CliRunner().invoke(main, words, env=few | variables | exported)
        assert ran.exit_code == 0, f"{command.line}\n{ran.output}"


def test_a_command_that_fails_is_seen(tmp_path: Path) -> None:
    there = commands.environment(tmp_path / "python")
    ran = commands.run(commands.Command("zs2kit verify no.mp4 no.mp4", "cd . && "), tmp_path, there)
    assert ran.status == 1 and "no.mp4" in ran.says
