"""All that a machine with a GPU is needed for, in the order of its worth, each part in limited time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import click
import torch

from zs2kit.bench.same import ROOT
from zs2kit.errors import UsageError, Zs2Error

# What runs, and for how many seconds at most: together 9 minutes
PARTS: dict[str, tuple[list[str], int]] = {
    "tests": (
        ["pytest", "tests/test_gpu.py", "-n", "0", "-p", "no:cacheprovider", "--tb=short", "-rfE"],
        160,
    ),
    "sd15": (["zs2kit.bench", "speed", "--size", "sd15"], 180),
    "puppets": (["zs2kit.bench", "speed", "--size", "puppets"], 80),
    "sdxl": (["zs2kit.bench", "speed", "--size", "sdxl", "--frames", "8"], 120),
}


def run(names: Sequence[str], cells: Path) -> None:
    """Run some of `PARTS` on a CUDA device, one after the other, also if one of them fails.

    Rows that are in ``cells`` aren't timed again. Raises `UsageError` if there is no such device, and
    `Zs2Error` at the end if a part failed or took too long.
    """
    if not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device here", "use `python -m zs2kit.bench speed --on cpu`")
    failed = [name for name in names if not _done(name, cells)]
    if failed:
        raise Zs2Error(
            f"not done: {', '.join(failed)}", "the same command goes on with the rows that are left"
        )


def _done(name: str, cells: Path) -> bool:
    command, most = PARTS[name]
    given = ["--cells", str(cells.resolve())] if command[0] == "zs2kit.bench" else []
    click.echo(f"== {name}, {most} s at most")
    start = perf_counter()
    words = [sys.executable, "-m", *command, *given]
    at_once = os.environ | {"PYTHONUNBUFFERED": "1"}  # or what it has printed by then would be lost
    try:
        done = subprocess.run(words, cwd=ROOT, env=at_once, timeout=most).returncode
    except subprocess.TimeoutExpired:
        click.echo(f"== {name}: stopped after {most} s; rows that were shown are saved")
        return False
    click.echo(f"== {name}: {'done' if done == 0 else 'failed'} after {perf_counter() - start:.0f} s")
    return done == 0
