"""Instructions, the pairs of scenes that they lead between, and the model that learns from them."""

from dataclasses import fields
from itertools import product

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionInstructPix2PixPipeline

from zs2kit.puppets import diffusion, instruct, pictures, train
from zs2kit.puppets.captions import COLOUR_WORDS, KIND_WORDS, WHERE, is_held_out
from zs2kit.puppets.instructions import IDIOMS, SCENERY, instruction, load_edits, template_edits
from zs2kit.puppets.networks import GROUPS
from zs2kit.puppets.training import Run

pytestmark = pytest.mark.slow


def named(words, text):
    return any(word.lower() in text.lower() for word in words)


def test_instructions_name_what_is_wanted():
    rng = np.random.default_rng(0)
    texts = []
    for kind, colour, place in list(product(*GROUPS.values()))[::7]:
        singles = [("clown", colour, place), (kind, "pink", place), (kind, colour, "snow")]
        doubles = [("clown", "pink", place), (kind, "pink", "snow"), ("clown", colour, "snow")]
        for wanted in [*singles, *doubles]:
            if wanted == (kind, colour, place):
                continue
            text = instruction((kind, colour, place), wanted, rng)
            texts.append(text)
            assert "{" not in text and "  " not in text, text
            if wanted[0] != kind:
                assert named(KIND_WORDS["clown"], text), text
            if wanted[1] != colour:
                assert named(COLOUR_WORDS["pink"], text), text
            if wanted[2] != place:
                assert named((*SCENERY["snow"], *WHERE["snow"], *IDIOMS["snow"]), text), text
    assert len(set(texts)) > 0.8 * len(texts)


def test_variations_change_one_thing_and_are_never_held_out():
    for number in range(60):
        original = pictures.scene(number)
        for varied in instruct.variations(number):
            changed = [
                each.name
                for each in fields(original)
                if getattr(varied, each.name) != getattr(original, each.name)
            ]
            assert len(changed) == 1 and changed[0] in GROUPS
            assert not is_held_out(varied.kind, varied.colour, varied.place)
        assert len({original, *instruct.variations(number)}) == 3


def test_edits_to_judge_by_are_those_that_were_fixed():
    edits = load_edits()
    by_hand = [edit for edit in edits if edit.source == "hand"]
    assert edits[: -len(by_hand)] == template_edits() and len(by_hand) == 40 and len(edits) == 200
    assert len({edit.scene for edit in edits}) == len({edit.instruction for edit in edits}) == 200
    changes = []
    for edit in edits:
        shown = pictures.scene(edit.scene, "test")
        changes.append([group for group in GROUPS if getattr(edit, group) != getattr(shown, group)])
    assert {len(changed) for changed in changes} == {1, 2}
    assert all(sum(group in changed for changed in changes) > 50 for group in GROUPS)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder in which the edit model and what it needs took two steps."""
    folder = tmp_path_factory.mktemp("train")
    patch = pytest.MonkeyPatch()
    for module in (diffusion, pictures, train, instruct):
        patch.setattr(module, "SHARD", 16)
    patch.setattr(train, "PICTURE_SHARDS", 1)
    run = Run(folder, steps=2, batch=4)
    train.train("vae", run)
    train.make_latents(run, 32)
    for stage in ("unet", "pairs", "instruct"):
        train.train(stage, run)
    train.export(run, folder / "weights")
    yield folder
    patch.undo()


def test_exported_model_edits_pictures(work):
    vae = AutoencoderKL.from_pretrained(work / "weights/vae")
    pipe = DiffusionPipeline.from_pretrained(work / "weights/instruct", vae=vae, local_files_only=True)
    assert isinstance(pipe, StableDiffusionInstructPix2PixPipeline) and pipe.unet.config.in_channels == 8
    pipe.set_progress_bar_config(disable=True)
    source = np.zeros((3, 128, 128, 3), np.uint8)
    edited = instruct.follow(pipe, source, ["make it night"] * 3, 2, (5.0, 1.5))
    assert edited.shape == source.shape and edited.std() > 0
    assert (edited[0] != edited[1]).any()  # each has a seed of its own


def test_pairs_are_of_one_family(work):
    data = instruct.Pairs(Run(work))
    shown = [pictures.scene(number) for number in range(32)]
    for (values, labels), start in zip(data.shards, (0, 16), strict=True):
        assert values.shape == (16, 3, 4, 16, 16)
        for row in range(16):
            family = [shown[start + row], *instruct.variations(start + row)]
            for label, scene in zip(labels[row], family, strict=True):
                names = [getattr(scene, group) for group in GROUPS]
                assert [each[i] for each, i in zip(GROUPS.values(), label, strict=True)] == names
    sources, targets, texts = data.draw(np.random.default_rng(0), 8)
    assert sources.shape == targets.shape == (8, 4, 16, 16) and (sources != targets).any() and all(texts)


@torch.no_grad()
def test_it_starts_as_the_base_blind_to_the_source(work):
    base = diffusion.text_to_image(Run(work))
    diffusion.load_weights(base, Run(work), "unet")
    both = instruct.edit_model(Run(work))
    noised, source, words = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.randn(2, 5, 128)
    wide = both["unet"](torch.cat([noised, source], dim=1), 500, words).sample
    torch.testing.assert_close(wide, base["unet"](noised, 500, words).sample)


def test_the_bundled_model_does_what_it_is_told_and_no_more():
    outcome = instruct.try_edits(
        train.WEIGHTS, load_edits()[::17], instruct.follower(train.WEIGHTS)
    )  # all are in docs/puppets.md
    assert len(outcome.found) == 12
    assert outcome.found.mean() >= 0.8
    assert (outcome.others & outcome.pose).mean() >= 0.75
