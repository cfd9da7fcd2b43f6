"""What several test files share: tiny models of the real classes, saved and loaded offline."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from zs2kit.testing import tiny_model

    return {
        prediction_type: tiny_model(tmp_path_factory.mktemp(prediction_type), prediction_type)
        for prediction_type in ("epsilon", "v_prediction")
    }


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def tiny(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]):
    from zs2kit import Model

    return Model.load(tiny_folders[request.param])
