"""Networks that enlarge pictures: what spandrel loads, tiles, half precision, and one line for what fails."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from spandrel.architectures.DnCNN.__arch.network_dncnn import DnCNN
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet
from spandrel.architectures.SPAN.__arch.span import SPAN

from zs2kit.errors import ModelError
from zs2kit.networks import enlarging
from zs2kit.networks.enlarging import Enlarging

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of small pictures, which take less time; the networks see no farther than the margin."""
    for name, pixels in (("TRIED", 32), ("STEP", 16), ("MARGIN", 8)):
        monkeypatch.setattr(enlarging, name, pixels)


def compact():
    torch.manual_seed(0)
    return SRVGGNetCompact(num_feat=8, num_conv=2, upscale=4)


def esrgan():
    torch.manual_seed(0)
    return RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=2)


def span():
    torch.manual_seed(0)
    return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)


def saved(network, path):
    save_file(network.state_dict(), path)
    return path


def load(path, dtype=torch.float32):
    return Enlarging.load(str(path), CPU, dtype, "upscale.model")


def picture(height=30, width=24):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [compact, esrgan, span])
def test_it_gives_what_spandrel_gives(make, tmp_path):
    path = saved(make(), tmp_path / "any.safetensors")
    found, theirs = load(path), ModelLoader().load_from_file(path)
    assert found.scale == theirs.scale
    large = found(picture())
    assert large.shape == (3, 30 * found.scale, 24 * found.scale)
    torch.testing.assert_close(large, theirs(picture()[None])[0])


def test_tiles_do_not_show(tmp_path):
    found = load(saved(compact(), tmp_path / "compact.safetensors"))
    shown = picture(45, 61)
    whole = found(shown)
    assert found.side == 61
    found.side = 16
    torch.testing.assert_close(found(shown), whole)


def test_without_a_margin_tiles_would_show(tmp_path, monkeypatch):
    found = load(saved(compact(), tmp_path / "compact.safetensors"))
    whole = found(picture(45, 61))
    monkeypatch.setattr(enlarging, "MARGIN", 0)
    found.side = 16
    assert (found(picture(45, 61)) - whole).abs().max() > 1e-3


def test_tiles_are_as_large_as_memory_allows(tmp_path, monkeypatch):
    path = saved(compact(), tmp_path / "compact.safetensors")
    monkeypatch.setattr(enlarging, "peak_of", lambda work, device: 32 * 32 * 100)
    for free, side in ((10**9, 90), (500_000, 32), (1, 16)):
        monkeypatch.setattr(enlarging, "free", lambda device, free=free: free)
        found = load(path)
        found(picture(90, 50))
        assert found.side == side


def test_out_of_memory_makes_tiles_smaller(tmp_path):
    found = load(saved(compact(), tmp_path / "compact.safetensors"))
    network = found.network

    class Narrow:
        """A device that has memory for small pictures only."""

        dtype, device = network.dtype, network.device

        def __call__(self, pixels):
            if max(pixels.shape[2:]) > 40:
                raise torch.OutOfMemoryError("out of memory")
            return network(pixels)

    found.network = Narrow()
    large = found(picture(50, 70))
    assert found.side == 16
    torch.testing.assert_close(large, load(tmp_path / "compact.safetensors")(picture(50, 70)))


def test_what_overflows_in_half_precision_is_made_again_in_float32(tmp_path):
    network = compact()
    with torch.no_grad():
        for layer, factor in ((0, 3e3), (2, 3e3), (4, 1e-3), (6, 1e-3)):
            network.body[layer].weight *= factor
    path = saved(network.half(), tmp_path / "large.safetensors")
    half, whole = load(path, torch.float16), load(path)
    assert half.network.dtype == torch.float16 and whole.network.dtype == torch.float32
    assert half.network(picture()[None].half()).isnan().any()
    torch.testing.assert_close(half(picture()), whole(picture()))


def test_what_overflows_in_float32_too_is_an_error(tmp_path):
    network = compact()
    with torch.no_grad():
        network.body[-1].weight.fill_(3e38)
    with pytest.raises(ModelError, match="overflows, even in float32"):
        load(saved(network, tmp_path / "broken.safetensors"))(picture())


def test_a_checkpoint_of_pytorch_loads_without_running_what_is_in_it(tmp_path):
    network = compact()
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    torch.testing.assert_close(
        load(tmp_path / "plain.pth")(picture()),
        load(saved(network, tmp_path / "plain.safetensors"))(picture()),
    )

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "older.pth").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "run").unlink(missing_ok=True)
    for name in ("evil.pth", "older.pth"):
        with pytest.raises(ModelError, match=f"{name} is damaged, or has more than weights"):
            load(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_a_folder_has_one_file(tmp_path):
    saved(compact(), tmp_path / "one.safetensors")
    torch.save({}, tmp_path / "one.pth")
    assert load(tmp_path).scale == 4
    saved(compact(), tmp_path / "two.safetensors")
    with pytest.raises(ModelError, match="has 2 files of weights; name one file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.safetensors", "there is no file, folder or name on the hub"),
        ("text.txt", "is not a file of weights"),
        ("damaged.safetensors", "is not a safetensors file, or is incomplete"),
        ("foreign.safetensors", "spandrel knows no network with these weights"),
        ("denoiser.safetensors", "this DnCNN doesn't enlarge pictures in colour"),
        ("grey.safetensors", "this RealESRGAN Compact doesn't enlarge pictures in colour"),
        ("empty", "has no file of weights"),
    ],
)
def test_what_is_no_enlarger_gets_one_line(name, told, tmp_path):
    (tmp_path / "text.txt").write_text("weights")
    (tmp_path / "damaged.safetensors").write_bytes(b"weights")
    (tmp_path / "empty").mkdir()
    saved(torch.nn.Linear(2, 2), tmp_path / "foreign.safetensors")
    saved(DnCNN(in_nc=3, out_nc=3, nc=8, nb=4), tmp_path / "denoiser.safetensors")
    grey = SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=4)
    saved(grey, tmp_path / "grey.safetensors")
    with pytest.raises(ModelError, match=told) as error:
        load(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)
