"""The benchmark runs; what it measures is told by running it on a quiet machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from zs2kit.bench import overhead
from zs2kit.bench.__main__ import main
from zs2kit.puppets import networks
from zs2kit.testing import tiny_model


def test_overhead_ends_with_the_ratio_of_the_sampler_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.detector().save_pretrained(tiny_model(tmp_path / "tiny") / "detector")
    monkeypatch.setattr(overhead, "FRAMES", 2)
    monkeypatch.setattr(overhead, "STEPS", 2)
    result = CliRunner().invoke(main, ["overhead", "--model", str(tmp_path / "tiny"), "--repeats", "2"])
    assert result.exit_code == 0, result.output
    *_, edit, loop = result.stdout.splitlines()
    assert re.fullmatch(r"the whole edit over .*: [\d.]+ s over [\d.]+ s = [\d.]+", edit)
    assert re.fullmatch(r"the sampler loop over .*: [\d.]+ s over [\d.]+ s = [\d.]+", loop)


def test_errors_are_one_line() -> None:
    for args, code, says in [([], 2, "Missing command"), (["overhead", "--model", "nosuch"], 1, "nosuch")]:
        result = CliRunner().invoke(main, args)
        (line,) = result.stderr.splitlines()
        assert result.exit_code == code and line.startswith("zs2kit: error: ") and says in line
