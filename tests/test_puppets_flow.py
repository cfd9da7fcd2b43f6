"""The flow model: it learns, goes on where it stopped, and diffusers' own pipelines draw with it."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxPipeline

import zs2kit
from zs2kit.puppets import diffusion, flow, instruct, networks, pictures, train
from zs2kit.puppets.detector import detect
from zs2kit.puppets.networks import GROUPS
from zs2kit.puppets.pictures import scene
from zs2kit.puppets.training import Run, load_weights
from zs2kit.puppets.world import motion_scenes, render
from zs2kit.puppets.yardsticks import classify, correct, load_classifier, load_reader
from zs2kit_plugins.instruct import Instruct
from zs2kit_plugins.pose import Pose

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Mismatch dtype between input and weight"
    ),  # FLUX.1's norms in bfloat16
    pytest.mark.filterwarnings("ignore:.FluxPosEmbed. is deprecated"),  # within the library's ControlNet
]
LESSONS = ("drawing", "editing", "posing")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with what a flow model learns from, which is of a tiny size here."""
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        for module in (diffusion, flow, instruct, pictures, train):
            patch.setattr(module, "SHARD", 32)
        patch.setattr(train, "PICTURE_SHARDS", 1)
        tiny = partial(networks.flow_transformer, heads=2, double=1, single=1)
        patch.setattr(networks, "flow_transformer", tiny)
        train.train("restore", Run(folder))
        (folder / "flow.cooled.pt").unlink()  # of the real size
        train.make_latents(Run(folder), 32)
        train.make_latents(Run(folder), 32, human=True)
        instruct.make_pairs(Run(folder))
        yield folder


@pytest.fixture(scope="module")
def lessons(work):
    return flow.Lessons(Run(work))


@pytest.fixture(scope="module")
def teachers(work, lessons):
    return flow.Teachers(Run(work), lessons)


def train_in(folder, work, *parts):
    """Train in a folder of its own for these numbers of steps, one after the other; returns the weights."""
    folder.mkdir()
    for path in work.iterdir():
        (folder / path.name).symlink_to(path)
    for steps in parts:
        run = Run(folder, steps=steps, batch=4, rate=1e-2)
        train.train("flow", run)
    network = flow.flow_model(run)
    assert load_weights(network, run, "flow") == sum(parts)
    return network


@torch.no_grad()
def losses(network, lessons, teachers):
    """The loss of each kind of lesson."""
    found = []
    for name in LESSONS:
        torch.manual_seed(0)
        lesson = getattr(lessons, name)(np.random.default_rng(0), 32)
        found.append(float(flow.flow_loss(network, teachers, lesson)))
    return found


def test_a_few_steps_lower_the_losses_and_diffusers_draws_with_it(work, lessons, teachers, tmp_path):
    network, run = train_in(tmp_path / "run", work, 60), Run(tmp_path / "run")
    before, after = (losses(each, lessons, teachers) for each in (flow.flow_model(run), network))
    print("losses before and after:", before, after)
    assert (np.array(after) < 0.9 * np.array(before)).all()

    flow.export_flow(run, tmp_path / "weights")
    (tmp_path / "weights/vae").symlink_to(train.WEIGHTS / "vae")
    pipe = flow.load_flow(tmp_path / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "STEPS", 2)
        drawn = flow.draw_flow(pipe, ["a red robot on the beach", "a knight", "a wizard"])
        edited = flow.draw_flow(pipe, ["make it night"], render(scene(0), 128).image[None])
    assert drawn.shape == (3, 128, 128, 3) and edited.shape == (1, 128, 128, 3)

    controlnet = FluxControlNetModel.from_pretrained(tmp_path / "weights/flow/controlnet_pose")
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    steered = FluxControlNetPipeline(**parts, controlnet=controlnet)
    given = {"height": 128, "width": 128, "max_sequence_length": networks.TOKENS, "output_type": "np"}
    images = [
        each(
            prompt="a red robot",
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            **given,
            **hints,
        ).images
        for each, hints in (
            (FluxPipeline(**parts), {}),
            (steered, {"control_image": torch.rand(1, 3, 128, 128)}),
        )
    ]
    assert np.isfinite(images[1]).all() and np.abs(images[0] - images[1]).max() > 0.01


def test_resumed_is_uninterrupted(work, tmp_path):
    once, twice = train_in(tmp_path / "once", work, 4), train_in(tmp_path / "twice", work, 1, 3)
    vectors = [torch.nn.utils.parameters_to_vector(each.parameters()) for each in (once, twice)]
    torch.testing.assert_close(*vectors)


@torch.no_grad()
def test_the_velocity_is_what_the_u_net_expects(lessons, teachers):
    lesson = lessons.drawing(np.random.default_rng(0), 4)
    noised, sigmas, ids = lesson.noised, lesson.sigmas, lesson.ids
    ones = torch.ones(4)
    velocity = teachers.expected(lesson, {"text": ones})
    clean = noised - sigmas.view(-1, 1, 1, 1) * velocity
    scheduler = networks.scheduler()
    scheduler.set_timesteps(1000)
    embeds = teachers.draws["text_encoder"](ids[:, 0]).last_hidden_state
    for i, timestep in enumerate(teachers.levels.timesteps(sigmas)):
        level = scheduler.alphas_cumprod[timestep].sqrt() + (1 - scheduler.alphas_cumprod[timestep]).sqrt()
        latents = noised[i : i + 1] * level
        v = teachers.draws["unet"](latents, timestep, embeds[i : i + 1]).sample
        expected = scheduler.step(v, timestep, latents).pred_original_sample
        torch.testing.assert_close(clean[i : i + 1], expected, atol=2e-4, rtol=1e-4)
    twice = teachers.expected(lesson, {"text": 2 * ones, "empty": -ones})
    empty = teachers.expected(lesson, {"empty": ones})
    torch.testing.assert_close(twice, 2 * velocity - empty, atol=1e-4, rtol=1e-4)


def test_noised_latents_lie_on_the_line_that_flows_follow(work):
    run = Run(work)
    data, values = flow.Flow(run), torch.randn(64, 4, 16, 16)
    noised, sigmas, velocity = data.noise(values, np.random.default_rng(0))
    clean = noised - sigmas.view(-1, 1, 1, 1) * velocity
    torch.testing.assert_close(clean, values * data.scale, atol=1e-4, rtol=1e-4)
    assert 0 < sigmas.min() < 0.1 and 0.9 < sigmas.max() < 1 and abs(sigmas.median() - 0.5) < 0.05


def test_t5_reads_any_text(work):
    words = flow.t5_tokenizer(Run(work))
    ids = words(["A Red robot, on 日本", ""], padding="max_length").input_ids
    assert [len(each) for each in ids] == [networks.TOKENS] * 2
    assert words.convert_ids_to_tokens(ids[0][:5]) == ["▁A", "▁Red", "▁robot", ",", "▁on"]
    assert ids[1] == [words.eos_token_id] + [words.pad_token_id] * (networks.TOKENS - 1)


def test_it_is_of_the_documented_size(work):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "flow_transformer", networks.flow_transformer.func)
        network = flow.flow_model(Run(work))
    sizes = {name: sum(each.numel() for each in part.parameters()) for name, part in network.items()}
    assert 7.6e6 < sizes["transformer"] < 7.7e6
    assert sizes["text_encoder_2"] < 1e6 and sizes["controlnet_pose"] < 3e6


@pytest.fixture(scope="module")
def bundled():
    return zs2kit.Model.load("puppets-flow")


def read(frames):
    """What the classifier reads of each frame: kind, colour, place."""
    found = classify(load_classifier(train.WEIGHTS), np.stack([frame.image for frame in frames]))
    return [tuple(names[i] for names, i in zip(GROUPS.values(), row, strict=True)) for row in found]


def test_the_bundled_model_draws_a_clip(bundled):
    drawn = zs2kit.generate("a green wizard on the beach", frames=4, model=bundled, num_inference_steps=12)
    assert read(drawn) == [("wizard", "green", "beach")] * 4


def test_the_bundled_model_edits_by_pose(bundled):
    shown = [render(each, 128) for each in motion_scenes(scene(10_004, "test"), "wave", 4)]
    clip = zs2kit.Clip.from_images([each.image for each in shown], 12)
    pose = Pose(detector="puppets")
    edit = zs2kit.edit(clip, "a blue knight in the desert", plugins=[pose], model=bundled, flow_momentum=0)
    frames = list(edit)
    assert read(frames) == [("knight", "blue", "desert")] * 4
    seen = detect(load_reader(train.WEIGHTS, "detector"), np.stack([frame.image for frame in frames]))
    assert correct(seen, np.stack([each.keypoints for each in shown]), 0.1).mean() >= 0.8


def test_the_bundled_model_follows_an_instruction(bundled):
    shown = [render(each, 128) for each in motion_scenes(scene(10_004, "test"), "wave", 4)]
    clip = zs2kit.Clip.from_images([each.image for each in shown], 12)
    ((kind, _, place),) = set(read(list(clip)))
    instruct = Instruct()
    edited = list(zs2kit.edit(clip, "make him green", plugins=[instruct], model=bundled))
    assert read(edited) == [(kind, "green", place)] * 4
