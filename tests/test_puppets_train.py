"""Each stage of the training takes a few steps, goes on where it stopped, exports what diffusers can load."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel
from torch import nn
from transformers import ResNetForImageClassification

from zs2kit.puppets import diffusion, flow, networks, pictures, train
from zs2kit.puppets.captions import is_held_out
from zs2kit.puppets.detector import detect, peaks
from zs2kit.puppets.estimator import estimate
from zs2kit.puppets.training import Run, fit, load_weights, orthogonalize, spread
from zs2kit.puppets.world import render

of_the_library = pytest.mark.filterwarnings("ignore:.FluxPosEmbed. is deprecated")  # within its ControlNet


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder in which each stage took two steps."""
    folder = tmp_path_factory.mktemp("train")
    patch = pytest.MonkeyPatch()
    for module in (diffusion, pictures, train):
        patch.setattr(module, "SHARD", 32)
    patch.setattr(train, "PICTURE_SHARDS", 1)
    patch.setattr(train, "EMPTY", 16)
    run = Run(folder, steps=2, batch=4)
    for stage in ("vae", "decoder", "reconstructions"):
        train.train(stage, run)
    train.make_latents(run, 64)
    train.make_latents(run, 32, human=True)
    for stage in ("unet", *train.CONTROLNETS, "detector", "estimator", "classifier"):
        train.train(stage, run)
    train.export(run, folder / "weights")
    yield folder
    patch.undo()


def test_exported_folder_draws_pictures(work):
    pipe = StableDiffusionPipeline.from_pretrained(work / "weights", local_files_only=True)
    assert pipe.tokenizer.model_max_length == networks.TOKENS
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red robot on the beach", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 128, 128, 3) and np.isfinite(image).all()


def test_exported_side_networks_load(work):
    for name in train.CONTROLNETS:
        ControlNetModel.from_pretrained(work / "weights" / name)
    ResNetForImageClassification.from_pretrained(work / "weights/classifier")
    network = UNet2DModel.from_pretrained(work / "weights/detector")
    found = detect(network, np.zeros((2, 96, 160, 3), np.uint8))
    assert found.shape == (2, 18, 3) and (found[..., 2] <= 1).all()
    network = UNet2DModel.from_pretrained(work / "weights/estimator")
    frames = np.random.default_rng(0).integers(256, size=(3, 96, 160, 3), dtype=np.uint8)
    for maps, last in zip(estimate(network, frames), estimate(network, frames[2:]), strict=True):
        assert maps.shape == (3, 96, 160) and maps.dtype == np.float32
        assert 0 <= maps.min() < maps.max() <= 1
        assert (maps[2:] == last).all()


def test_the_controlnet_of_poses_sees_how_people_stand(work):
    ordinary, both = (diffusion.Diffusion(Run(work), 1, human=human) for human in (False, True))
    assert len(ordinary.shards) == 1 and len(both.shards) == 2 and both.scale == ordinary.scale
    stored, drawn = both.shards[1][1], render(pictures.scene(5, human=True)).keypoints
    np.testing.assert_array_equal(stored[5], drawn)


@of_the_library
def test_the_controlnet_of_poses_can_be_trained_on_from_the_packages_weights(tmp_path):
    train.train("restore", Run(tmp_path))
    network = ControlNetModel.from_pretrained(train.WEIGHTS / "controlnet_pose")
    restored = networks.controlnet(UNet2DConditionModel.from_pretrained(train.WEIGHTS / "unet"))
    assert load_weights(restored, Run(tmp_path), "controlnet_pose") > 0
    for name, weight in restored.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name]), name


@of_the_library
def test_the_flow_model_can_be_trained_on_from_the_packages_weights(tmp_path):
    run = Run(tmp_path, steps=1, rate=1e-2)
    train.train("restore", run)
    run.path("flow.cooled").rename(run.path("flow"))
    network, before = flow.flow_model(run), flow.bundled_flow(train.WEIGHTS / "flow")
    fit("flow", network, lambda _: sum(each.square().mean() for each in network.parameters()), run, rate=1e-2)
    steps = json.loads((train.WEIGHTS / "training.json").read_text())["flow"]
    assert load_weights(flow.flow_model(run), run, "flow") == steps + 1
    moved = [(a - b).abs().max() for a, b in zip(network.parameters(), before.parameters(), strict=True)]
    assert 0 < max(moved) < 1e-3  # the optimizers, which begin anew, warm up


def test_export_leaves_what_others_made(work):
    other = work / "weights/loras/own.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"own")
    stale = work / "weights/detector/stale"
    stale.write_bytes(b"old")
    train.export(Run(work), work / "weights")
    assert other.read_bytes() == b"own" and not stale.exists()
    assert not list(work.glob("*.partial"))


def test_resumed_is_uninterrupted(work, tmp_path):
    weights = []
    for name, parts in (("once", (4,)), ("twice", (1, 3))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pictures").symlink_to(work / "pictures")
        for steps in parts:
            run = Run(tmp_path / name, steps=steps, batch=4)
            train.train("vae", run)
        network = networks.vae()
        assert load_weights(network, run, "vae") == 4
        weights.append(torch.nn.utils.parameters_to_vector(network.parameters()))
    torch.testing.assert_close(*weights)


def learn(rank, folder, processes, steps=5):
    """Train two layers: the first process learns from one of them, the second from both."""
    if processes > 1:
        store = dist.FileStore(str(folder / "rendezvous"), processes)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    torch.manual_seed(0)
    network = nn.ModuleDict({name: nn.Linear(16, 16) for name in ("left", "right")})
    inputs = torch.randn(8, 16)

    def loss(_):
        (folder / f"{rank}.learns").touch()
        left, right = ((part(inputs) - inputs).square().mean() for part in network.values())
        by_process = (left, left + right)
        return by_process[rank] if processes > 1 else sum(by_process) / 2

    fit("layers", network, loss, Run(folder, steps=steps, rank=rank, processes=processes), rate=1e-2)


@pytest.mark.slow
def test_processes_may_learn_from_different_parts(tmp_path):
    weights = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        if processes > 1:
            spread(learn, (folder, processes), processes)
        else:
            learn(0, folder, processes)
        weights.append(torch.load(folder / "layers.pt", weights_only=True)["network"])
    torch.testing.assert_close(*weights)


@pytest.mark.slow
def test_sigterm_has_all_processes_save_and_end(tmp_path):
    def ask_once_both_learn():
        while len(list(tmp_path.glob("*.learns"))) < 2:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_once_both_learn)
    asking.start()
    spread(learn, (tmp_path, 2, None), 2)
    asking.join()
    assert torch.load(tmp_path / "layers.pt", weights_only=True)["step"] > 0


def test_cooled_weights_are_kept_apart(work):
    before = (work / "classifier.pt").read_bytes()
    train.train("classifier", Run(work, steps=2, batch=4, cooldown=True))
    assert (work / "classifier.pt").read_bytes() == before
    assert load_weights(networks.classifier(), Run(work), "classifier") == 4


def test_maps_are_those_of_the_pictures(work):
    depth, mask = pictures.maps(work, 0)[5].astype(np.float32).transpose(2, 0, 1) / 255
    picture = render(pictures.scene(5))
    assert np.abs(depth - picture.depth).max() <= 0.5 / 255 + 1e-6
    assert (mask == picture.mask).all()
    assert not pictures.empty_maps(3)[..., 1].any() and pictures.empty_maps(3)[..., 0].max() > 100


def test_training_never_sees_what_is_held_out():
    scenes = [pictures.scene(number) for number in range(300)]
    assert not any(is_held_out(scene.kind, scene.colour, scene.place) for scene in scenes)
    assert scenes[0] == pictures.scene(0) != pictures.scene(0, "test")


def test_tokenizer_reads_any_text():
    words = networks.tokenizer(["a red robot on the beach", "an astronaut in space"] * 9)
    assert words.decode(words("Zürich, 日本 & a Robot!").input_ids, skip_special_tokens=True).startswith(
        "zürich ,"
    )
    ids = words("").input_ids
    assert ids == [words.bos_token_id, words.eos_token_id]


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 144), (2, 144, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(
        orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    )
    assert values.max() < 1.3 and values.median() > 0.6


def test_peaks_are_read_between_pixels():
    x, y = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy")
    heatmap = torch.exp(-((x - 20.3).square() + (y - 41.6).square()) / (2 * 1.2**2))
    found = peaks(heatmap[None, None])[0, 0]
    torch.testing.assert_close(found[:2], torch.tensor([20.3, 41.6]), atol=0.1, rtol=0)
