"""The tiny VAE gives what the VAE gives: latents that the U-Net knows, and the pictures of them."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

import zs2kit
from zs2kit.motion import SHARES
from zs2kit.puppets import diffusion, pictures, tiny_vae, train
from zs2kit.puppets.captions import load_prompts
from zs2kit.puppets.diffusion import to_tensor
from zs2kit.puppets.training import Run

pytestmark = pytest.mark.slow

FLOORS = {
    "tiny VAE, renders: PSNR of decoding, dB": 23.0,
    "tiny VAE, estimates: PSNR of decoding, dB": 23.0,
}
CEILINGS = {
    "tiny VAE, renders: error of latents": 0.2,
    "tiny VAE, averages: error of latents": 0.2,
    "tiny VAE, averages: error of what is added": 0.5,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder in which the tiny VAE, and what it learns from, took two steps."""
    folder = tmp_path_factory.mktemp("tiny_vae")
    with pytest.MonkeyPatch.context() as patch:
        for module in (diffusion, pictures, tiny_vae, train):
            patch.setattr(module, "SHARD", 32)
        patch.setattr(train, "PICTURE_SHARDS", 1)
        patch.setattr(tiny_vae, "FILES", 1)
        run = Run(folder, steps=2, batch=4)
        train.train("vae", run)
        train.make_latents(run, 32)
        for stage in ("unet", "estimates", "tiny_vae"):
            train.train(stage, run)
        train.export(run, folder / "weights")
        yield folder


def test_what_it_learns_from_is_complete(work):
    (made,) = tiny_vae.estimates(Run(work))
    assert made.latents.shape == (32, 4, 16, 16) and made.images.shape == (32, 128, 128, 3)
    vae = diffusion.load_vae(Run(work))
    latents = torch.from_numpy(made.latents[[3, 20]].astype(np.float32))
    with torch.no_grad():
        decoded = vae.decode(latents / diffusion.Diffusion(Run(work)).scale).sample.clamp(-1, 1)
    assert (decoded - to_tensor(made.images[[3, 20]])).abs().mean() < 0.02


def test_others_show_the_same_picture(work):
    rng = np.random.default_rng(0)
    assert tiny_vae.like(5, rng) == 5  # a render
    found = {tiny_vae.like(19, rng) for _ in range(200)}
    assert found == set(range(16, 24)) and len(SHARES) == 8


def test_the_exported_folder_loads(work):
    network = AutoencoderTiny.from_pretrained(work / "weights/tiny_vae")
    assert network.encode(torch.zeros(1, 3, 96, 160)).latents.shape == (1, 4, 12, 20)


def test_averages_lie_between_what_they_are_made_of():
    pixels, others = torch.full((4, 3, 128, 128), -1.0), torch.full((4, 3, 128, 128), 1.0)
    mixed = tiny_vae.averaged(pixels, others, np.random.default_rng(0))
    assert mixed.min() >= -1 and mixed.max() <= 1 and mixed.std() > 0.3


def test_without_estimates_training_says_what_to_run(tmp_path):
    with pytest.raises(SystemExit, match="estimates"):
        tiny_vae.train_tiny_vae(Run(tmp_path))


@pytest.fixture(scope="module")
def measured():
    """What the bundled pair is measured on: a few renders, and estimates on the way to a few pictures."""
    renders = to_tensor(pictures.draw(range(40_000, 40_016), "test").images)
    return renders, tiny_vae.held_out_estimates(train.WEIGHTS, load_prompts()[:4])


def test_the_bundled_one_gives_what_the_vae_gives(measured):
    """The floors are under the numbers in docs/puppets.md, with room for the smaller sample taken here."""
    numbers = tiny_vae.likeness(tiny_vae.Twins.load(train.WEIGHTS), *measured)
    print(numbers)
    assert all(numbers[name] > floor for name, floor in FLOORS.items())
    assert all(numbers[name] < ceiling for name, ceiling in CEILINGS.items())


def test_the_floors_notice_latents_of_another_scale(measured):
    """Control: to a VAE that doesn't scale its latents the bundled one is no twin."""
    twins = tiny_vae.Twins.load(train.WEIGHTS)
    twins.vae.register_to_config(scaling_factor=1.0)
    numbers = tiny_vae.likeness(twins, *measured)
    assert not any(numbers[name] > floor for name, floor in FLOORS.items()), numbers
    assert numbers["tiny VAE, renders: error of latents"] > CEILINGS["tiny VAE, renders: error of latents"]


def test_it_stands_in_for_encode_and_decode_of_a_model(measured):
    model, twins = zs2kit.Model.load(), tiny_vae.Twins.load(train.WEIGHTS)
    assert twins.tiny.config.scaling_factor == 1.0
    latents = model.encode(measured[0])
    assert tiny_vae.error(twins.encode(measured[0])[1], latents) < 0.2
    pixels = twins.decode(latents)[1] / 2 + 0.5
    assert tiny_vae.closeness(pixels * 2 - 1, model.decode(latents) * 2 - 1) > 23


def test_it_is_small_and_fast():
    files = list((train.WEIGHTS / "tiny_vae").iterdir())
    assert sum(path.stat().st_size for path in files) < 1e6
    assert tiny_vae.speed(tiny_vae.Twins.load(train.WEIGHTS)) > 2
