"""The flow model: it learns, goes on where it stopped, and diffusers' own pipeline draws with it."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from zs2kit.puppets import diffusion, flow, networks, pictures, train
from zs2kit.puppets.captions import load_prompts
from zs2kit.puppets.training import Run, load_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Mismatch dtype between input and weight"
    ),  # FLUX.1's norms in bfloat16
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with what a flow model learns from, which is of a tiny size here."""
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        for module in (diffusion, pictures, train):
            patch.setattr(module, "SHARD", 32)
        patch.setattr(train, "PICTURE_SHARDS", 1)
        tiny = partial(networks.flow_transformer, heads=2, double=1, single=1)
        patch.setattr(networks, "flow_transformer", tiny)
        train.train("restore", Run(folder))
        train.make_latents(Run(folder), 32)
        yield folder


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


def test_a_few_steps_lower_the_loss_and_diffusers_draws_with_it(work, tmp_path):
    network = train_in(tmp_path / "run", work, 100)
    run = Run(tmp_path / "run")
    losses = []
    for each in (flow.flow_model(run), network):
        torch.manual_seed(0)
        with torch.no_grad():
            value = flow.flow_loss(each, flow.text_encoder(run), flow.Flow(run), np.random.default_rng(0), 32)
        losses.append(float(value))
    print("loss before and after:", losses)
    assert losses[1] < 0.9 * losses[0]

    train.export(run, tmp_path / "weights")
    pipe = FluxPipeline.from_pretrained(tmp_path / "weights/flow", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        "a red robot on the beach",
        negative_prompt="",
        true_cfg_scale=2.0,
        num_inference_steps=2,
        height=128,
        width=128,
        max_sequence_length=networks.TOKENS,
        output_type="np",
    ).images
    assert images.shape == (1, 128, 128, 3) and np.isfinite(images).all()


def test_resumed_is_uninterrupted(work, tmp_path):
    once, twice = train_in(tmp_path / "once", work, 4), train_in(tmp_path / "twice", work, 1, 3)
    vectors = [torch.nn.utils.parameters_to_vector(each.parameters()) for each in (once, twice)]
    torch.testing.assert_close(*vectors)


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
    t5 = networks.t5_encoder(flow.t5_tokenizer(Run(work)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "flow_transformer", networks.flow_transformer.func)
        transformer = networks.flow_transformer()
    sizes = [sum(param.numel() for param in each.parameters()) for each in (transformer, t5)]
    assert 7.5e6 < sizes[0] < 7.7e6 and sizes[1] < 1e6


def test_prompts_are_drawn_one_each(work, tmp_path):
    train_in(tmp_path / "run", work, 1)
    train.export(Run(tmp_path / "run"), tmp_path / "weights")
    pipe = FluxPipeline.from_pretrained(tmp_path / "weights/flow", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "STEPS", 2)
        assert flow.draw_flow(pipe, load_prompts()[:3]).shape == (3, 128, 128, 3)
