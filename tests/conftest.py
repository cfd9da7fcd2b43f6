"""What several test files share: tiny models of the real classes, saved and loaded offline."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
os.environ.setdefault("ZS2KIT_PROGRESS", "none")  # lines every ten seconds would come on a slow machine
if "PYTEST_XDIST_WORKER" in os.environ:  # processes of several threads each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_folders() -> dict[str, Path]:
    from zs2kit.testing import tiny_models

    return tiny_models()


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def tiny(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]):
    from zs2kit import Model

    return Model.load(tiny_folders[request.param])


@pytest.fixture(scope="session")
def documented_metrics() -> set[str]:
    """The names in the first columns of docs/metrics.md's tables."""
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|", page, re.M)
    return {name for row in rows for name in re.split(r"[,;] ", row)}
