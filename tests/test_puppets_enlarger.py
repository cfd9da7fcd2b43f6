"""The enlarger makes pictures four times as large, sharper than interpolation does, and steady."""

from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from zs2kit.carry import Carry
from zs2kit.motion import settle
from zs2kit.networks.enlarger import Enlarger
from zs2kit.puppets import diffusion, enlarger, pictures, train
from zs2kit.puppets.diffusion import to_tensor
from zs2kit.puppets.training import Run
from zs2kit.puppets.world import MOTIONS, motion_scenes, render
from zs2kit.puppets.yardsticks import psnr, reconstruct


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder in which the enlarger, and what it learns from, took two steps."""
    folder = tmp_path_factory.mktemp("enlarger")
    with pytest.MonkeyPatch.context() as patch:
        for module in (diffusion, pictures, enlarger, train):
            patch.setattr(module, "SHARD", 16)
        patch.setattr(train, "PICTURE_SHARDS", 1)
        patch.setattr(enlarger, "FILES", 1)
        patch.setattr(enlarger, "TWINS", 2)
        patch.setattr(enlarger, "BATCH", 4)
        run = Run(folder, steps=2, batch=4, crop=32)
        train.train("vae", run)
        train.make_latents(run, 16)
        for stage in ("unet", "enlarger_pairs", "enlarger"):
            train.train(stage, run)
        train.export(run, folder / "weights")
        yield folder


def test_pairs_show_the_same_scene(work):
    (made,) = enlarger.pairs(Run(work))
    assert made.small.shape == (16, 128, 128, 3) and made.large.shape == (16, 512, 512, 3)
    picture = render(pictures.scene(11), 512, like=128).image
    assert (made.large[11] == picture).all()


def test_twins_are_neighbouring_frames(work):
    made = enlarger.twins(Run(work))
    first, second = (to_tensor(np.array(made.large[:, place])) for place in (0, 1))
    moved, inside = enlarger.warped(second, torch.from_numpy(made.flow.astype(np.float32)))
    seen = torch.from_numpy(np.array(made.seen))[:, None] & inside
    assert seen.float().mean() > 0.5
    assert ((moved - first) * seen).square().mean() < 0.1 * ((second - first) * seen).square().mean()


def test_a_large_picture_shows_what_a_small_one_does():
    scenes = [pictures.scene(number) for number in range(6)]
    small = np.stack([render(each).image for each in scenes])

    def shrunk(like):
        large = [render(each, 512, like=like).image for each in scenes]
        return np.stack([cv2.resize(each, (128, 128), interpolation=cv2.INTER_AREA) for each in large])

    assert psnr(small, shrunk(128)) > 41
    assert psnr(small, shrunk(None)) < 31  # its outlines are thinner


def test_the_exported_folder_loads(work):
    network = Enlarger.from_pretrained(work / "weights/enlarger")
    assert network(torch.zeros(1, 3, 95, 161)).shape == (1, 3, 380, 644)


def test_untrained_it_is_cubic_interpolation():
    image = render(pictures.scene(3)).image[:127, 1:]  # of odd sides
    found = enlarger.by_network(Enlarger(), image[None])
    cubic = cv2.resize(image, (4 * 127, 4 * 127), interpolation=cv2.INTER_CUBIC)
    assert np.abs(found.astype(int)[0] - cubic).max() <= 1


def test_without_pairs_training_says_what_to_run(tmp_path):
    with pytest.raises(SystemExit, match="enlarger_pairs"):
        enlarger.train_enlarger(Run(tmp_path))


def test_the_last_convolution_is_fitted():
    torch.manual_seed(0)
    network = Enlarger(channels=8, blocks=1, fine_channels=8)
    taught = deepcopy(network)
    torch.nn.init.normal_(taught.last.weight, std=0.02)
    small = np.stack([render(pictures.scene(number)).image for number in range(2)])
    large = enlarger.by_network(taught, small)
    before = psnr(enlarger.by_network(network, small), large)
    enlarger.fit_last(network, small, large)
    assert psnr(enlarger.by_network(network, small), large) > max(45, before + 10)


def test_the_bundled_one_is_sharper_than_interpolation():
    vae = AutoencoderKL.from_pretrained(train.WEIGHTS / "vae").eval()
    network = Enlarger.from_pretrained(train.WEIGHTS / "enlarger").eval()
    scenes = [pictures.scene(number, "test") for number in range(40_000, 40_008)]
    small = reconstruct(vae, np.stack([render(each).image for each in scenes]))
    large = enlarger.true_large(scenes)
    by_network, by_cubic = enlarger.by_network(network, small), enlarger.by_cubic(small)
    assert psnr(by_network, large) > psnr(by_cubic, large) + 1.8


@pytest.mark.slow
def test_averaged_it_is_as_steady_as_interpolation():
    vae = AutoencoderKL.from_pretrained(train.WEIGHTS / "vae").eval()
    network = Enlarger.from_pretrained(train.WEIGHTS / "enlarger").eval()
    moving = motion_scenes(pictures.scene(40_000, "test"), MOTIONS[0], 4, travel=0.1)
    small = reconstruct(vae, np.stack([render(each).image for each in moving]))
    large = enlarger.true_large(moving)
    alone = enlarger.by_network(network, small)
    settled = settle(to_tensor(alone) / 2 + 0.5, large, Carry())
    averaged = enlarger.to_bytes(settled * 2 - 1)
    cubic = enlarger.by_cubic(small)
    assert enlarger.flicker(averaged, large) < enlarger.flicker(cubic, large) < enlarger.flicker(alone, large)
    assert psnr(averaged, large) > psnr(alone, large)
