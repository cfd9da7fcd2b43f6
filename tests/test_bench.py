"""The benchmarks run; what they measure is told by running them on a quiet machine."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.models.attention_processor import Attention
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    CrossFrameAttnProcessor2_0,
    TextToVideoZeroPipeline,
)
from test_reference import save_adapter

import zs2kit
from zs2kit import attention as layers
from zs2kit import metrics
from zs2kit.bench import (
    ablation,
    anchored,
    averaging,
    device,
    every,
    gpu,
    joint,
    overhead,
    quality,
    readers,
    same,
    search,
    speed,
)
from zs2kit.bench.__main__ import main
from zs2kit.bench.baselines import (
    attention,
    first_frame,
    frame_by_frame,
    initial_noise,
    pictures,
    text_to_video_zero,
    zs2,
)
from zs2kit.bench.cases import Case
from zs2kit.bench.cells import Cells
from zs2kit.bench.page import SECTIONS
from zs2kit.bench.runs import Method, Runs, interval, zs2_method
from zs2kit.bench.tokenflow import TokenFlow, TokenFlowProcessor, token_flow
from zs2kit.errors import UsageError, Zs2Error
from zs2kit.model import Model
from zs2kit.networks.rife import Rife
from zs2kit.noise import correlation
from zs2kit.quiet import quiet
from zs2kit.schedule import make_scheduler
from zs2kit.testing import drawn_clip, tiny_models

STEPS = 3


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(tiny_models()["v_prediction"])


def run(*args: object) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def test_overhead_ends_with_the_ratio_of_the_sampler_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "FRAMES", 2)
    monkeypatch.setattr(overhead, "STEPS", 2)
    *_, edit, loop = run("overhead", "--model", tiny_models()["epsilon"], "--repeats", 2).splitlines()
    assert re.fullmatch(r"the whole edit over .*: [\d.]+ s over [\d.]+ s = [\d.]+", edit)
    assert re.fullmatch(r"the sampler loop over .*: [\d.]+ s over [\d.]+ s = [\d.]+", loop)


def test_quality_writes_tables_targets_and_filmstrips_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "FRAMES", 2)
    monkeypatch.setattr(quality, "SHOWN", (0,))
    monkeypatch.setattr(quality, "STEPS", 2)
    monkeypatch.setattr(quality, "FEW", 0)
    model = shutil.copytree(tiny_models()["epsilon"], tmp_path / "model")
    (model / "reference").mkdir()
    save_adapter(model / "reference", Model.load(model).unet)
    args = ["quality", "--model", model, "--prompts", 1, "--steps", 2]
    args += ["--cells", tmp_path / "cells", "--docs", tmp_path / "docs"]
    drawn = run(*args).splitlines()
    methods = [*quality.generators(), *quality.editors()]
    for method in methods:
        assert any(method.name in line for line in drawn)
    page = (tmp_path / "docs" / "results.md").read_text()
    for title in ("## Generated clips", "## Edited clips"):
        table = page.partition(title)[2]
        assert re.search(r"^\| frame by frame \| \d+% \|", table, re.M)  # of one prompt there is no interval
        assert re.search(r"^\| rendered clips \|  \| 0\.0 \|", table, re.M)
        assert re.search(r"^\| text right, minus that of .* \| (reached|missed) \|$", table, re.M)
    assert re.search(r"^\| PCK@0.1 \| at least 0.9 \|", page, re.M)
    assert {path.name for path in (tmp_path / "docs").glob("*.png")} == {
        "results-generated.png",
        "results-edited.png",
    }
    assert run(*args) == ""  # nothing is drawn twice


def test_a_target_is_reached_or_missed_by_its_mean_and_its_interval_is_of_pairs(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that differ much from prompt to prompt, and little between methods."""
    runs, cases = Runs(Cells(tmp_path), model, 1), [Case(number, 2) for number in range(4)]
    ours, theirs = (Method(name, frame_by_frame) for name in ("ours", "theirs"))
    said = {"ours": [1.0, 10.0, 100.0, 400.0], "theirs": [2.0, 20.0, 200.0, 800.0]}
    monkeypatch.setattr(runs, "numbers", lambda method, case: {"drift": said[method.name][case.number]})

    def found(*target: Any) -> str:
        return quality._reached(runs, cases, ours, quality.Target("what", "drift", *target))

    assert found("at most", 0.5, theirs) == "0.50 (0.50 to 0.50) | reached"
    assert found("at most", 0.4, theirs) == "0.50 (0.50 to 0.50) | missed"
    assert found("at least", 0, theirs, np.subtract).endswith(" | missed")
    assert re.fullmatch(r"127\.75 \([\d.]+ to [\d.]+\) \| missed", found("at least", 128))
    said["theirs"] = [0.0] * 4
    assert found("at most", 0.5, theirs).endswith(" | missed")  # over nothing


def test_ablation_writes_grids_other_noise_and_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "FRAMES": 2,
        "STEPS": 1,
        "LENGTHS": (3,),
        "MOMENTA": (0.0, 0.98),
        "DIVERGENCES": (0.0, 0.1),
        "SEARCHED": (0.1,),
    }.items():
        monkeypatch.setattr(ablation, name, value)
    docs = ["--docs", tmp_path / "docs", "--cells", tmp_path / "cells"]
    run("ablation", "--model", tiny_models()["epsilon"], "--prompts", 1, "--steps", 1, *docs)
    page = (tmp_path / "docs" / "results.md").read_text()
    assert re.search(r"^\| divergence \| momentum 0 \| momentum 0.98 \|$", page, re.M)
    assert re.search(r"^\| 0 \| 0\.0 \| 0\.0 \|$", page, re.M)  # a still doesn't drift
    assert "### Other noise" in page and "### 3 frames" in page
    assert re.search(r"^\| search, 0.1 \|", page, re.M) and re.search(r"^\| closed form, 0.1 \|", page, re.M)


def test_fewer_drawn_frames_are_compared_clip_by_clip() -> None:
    drawn = [{"PCK@0.1": share, "seconds": 20.0} for share in (0.9, 1.0)]
    filled = [{"PCK@0.1": share, "seconds": 10.0} for share in (0.7, 0.8)]
    for numbers in (*drawn, *filled):
        numbers |= {"warp error": 0.001, "kind flips": 0.0, "colour flips": 0.0}
    table = every._table(drawn, filled, "--every 2").splitlines()
    assert [line.split(" | ")[:2] for line in table[2:]] == [
        ["| all drawn", "95.0% (90.0% to 100.0%)"],
        ["| --every 2", "75.0% (70.0% to 80.0%)"],
        ["| difference", "-20.0% (-20.0% to -20.0%)"],
    ]
    found = every._verdict(drawn, filled, 2)
    assert "2.00 times as fast (2.00 to 2.00)" in found and "PCK@0.1 is outside the interval" in found
    assert "No mean is outside" in every._verdict(drawn, drawn, 2)


def test_frames_in_between_are_compared_and_put_into_the_page(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    torch.save(Rife().state_dict(), tmp_path / "packages" / "flownet.pkl")
    clip = zs2kit.write(tmp_path / "clip.mp4", drawn_clip(5, width=48, height=32))
    run("middle", clip, "--cells", tmp_path, "--docs", tmp_path / "docs")
    page = (tmp_path / "docs" / "results.md").read_text()
    row = r"^\| clip.mp4, 48x32 \| 2 \|( [\d.]+ dB, [\d.]+ s \|){4}$"
    assert re.search(row, page.partition("## Frames in between")[2], re.M)


def test_the_papers_search_lands_near_the_closed_form_where_it_lands_at_all() -> None:
    noise, weights = search.searched_noise((4, 32, 32), range(12), 0.2, seed=0)
    assert max(weights) <= 1
    assert metrics.noise_statistics(noise.numpy())["neighbour correlation"] == pytest.approx(
        correlation(0.2), abs=0.03
    )
    found = [search.divergence_of(after, before) for before, after in pairwise(noise)]
    assert np.mean(found) == pytest.approx(0.2, abs=0.03)
    _, weights = search.searched_noise((4, 32, 32), range(12), 0.0, seed=0)
    assert min(weights[1:]) > 1  # which the listing makes NaN of


def test_searched_noise_goes_on_from_chunk_to_chunk(model: Model) -> None:
    case = Case(1, 5, 32)
    whole, parts = (
        search.searched(model, case, STEPS, divergence=0.1, momentum=0.98, chunk_size=size) for size in (5, 2)
    )
    assert difference(whole, parts) <= 1
    other = zs2(model, case, STEPS, edited=False, momentum=0.98, chunk_size=5)
    assert difference(whole, other) > 10


@pytest.mark.slow
def test_speed_is_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LENGTHS", (1, 2))
    monkeypatch.setattr(speed, "BATCH", 1)
    args = ["speed", "--model", tiny_models()["epsilon"], "--frames", 2, "--steps", 2, "--repeats", 1]
    args += ["--side", 128, "--cells", tmp_path / "cells", "--docs", tmp_path / "docs"]
    first, second = run(*args), run(*args)
    assert (
        first == second
        and "zs2kit over Text2Video-Zero" in first
        and "edit over edit frame by frame" in first
    )
    page = (tmp_path / "docs" / "results.md").read_text()
    tables = re.findall(r"128x128 \| CPU, \d+ thread\(s\) \| 2 \| 2 \| 1 \|((?: [\d.]+ \|)+)$", page, re.M)
    assert [table.count("|") for table in tables] == [5, 3]
    assert re.search(r"From 1 to 2 frames memory grows by -?[\d.]+%", page)


@pytest.mark.parametrize(("size", "parameters"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_models_of_random_weights_are_as_large_as_the_real_ones(size: str, parameters: int) -> None:
    """The numbers of parameters that their authors give."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**speed.UNETS[size])
    assert sum(each.numel() for each in unet.parameters()) == parameters


def test_text_to_video_zero_is_the_pipeline_of_diffusers(model: Model) -> None:
    """As published: 50 steps, t0 = 44 and t1 = 47."""
    case, given = Case(0, 3, 32), {"safety_checker": None, "feature_extractor": None}
    parts = {name: getattr(model.pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = make_scheduler("ddim", model.pipeline.scheduler.config, 50)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = TextToVideoZeroPipeline(
            **parts, **given, scheduler=scheduler, requires_safety_checker=False
        )
        drawn = pipeline(
            case.prompt,
            video_length=3,
            guidance_scale=5.0,
            latents=initial_noise(model, case, shared=True)[:1],
            generator=torch.Generator().manual_seed(case.seed),
        ).images
    assert difference(text_to_video_zero(model, case, 50), (drawn * 255).round().astype(np.uint8)) <= 1
    assert difference(text_to_video_zero(model, case, 50), text_to_video_zero(model, case, 20)) > 1


def test_frame_by_frame_is_zs2kit_without_what_it_adds(model: Model) -> None:
    case = Case(1, 2)
    for edited in (False, True):
        for shared, noise in ((False, "independent"), (True, "shared")):
            theirs = frame_by_frame(model, case, STEPS, edited=edited, shared=shared)
            assert difference(theirs, plain(model, case, edited, noise, 0.0)) <= 1
        assert difference(theirs, plain(model, case, edited, "independent", 0.0)) > 10


def test_first_frame_attention_is_momentum_1_and_leaves_no_trace(model: Model) -> None:
    case, before = Case(1, 3), dict(model.unet.attn_processors)
    theirs = first_frame(model, case, STEPS, edited=True)
    assert difference(theirs, plain(model, case, True, "shared", 1.0)) <= 1
    assert model.unet.attn_processors == before
    with attention([model.unet], lambda layer: CrossFrameAttnProcessor2_0(batch_size=2)):
        noise = initial_noise(model, case, shared=False)
        theirs = pictures(model, case, STEPS, noise, None)
    assert difference(theirs, plain(model, case, False, "independent", 1.0)) <= 1
    assert difference(theirs, plain(model, case, False, "independent", 0.0)) > 10


def test_stable_diffusion_xl_is_drawn_by_its_own_pipeline() -> None:
    model, case = Model.load(tiny_models()["sdxl"]), Case(1, 2, 64)
    theirs = frame_by_frame(model, case, STEPS, edited=False, shared=False)
    assert difference(theirs, plain(model, case, False, "independent", 0.0)) <= 1
    assert "zs2kit over frame by frame" in speed.ratios(model, case, STEPS, 1, False)


def plain(model: Model, case: Case, edited: bool, noise: str, momentum: float) -> np.ndarray:
    """zs2kit with nothing but this noise and momentum."""
    given = {"flow_momentum": 0.0} if edited else {}
    return zs2(model, case, STEPS, edited=edited, noise=noise, momentum=momentum, divergence=0.0, **given)


def test_token_flow_of_one_frame_is_plain_and_of_several_is_not(model: Model) -> None:
    """A lone keyframe attends to itself, and each of its tokens is most like itself."""
    before = dict(model.unet.attn_processors)
    for frames, alike in ((1, True), (3, False)):
        case = Case(1, frames)
        flowing = token_flow(model, case, STEPS, edited=True)
        alone = frame_by_frame(model, case, STEPS, edited=True, shared=True)
        assert (difference(flowing, alone) <= 1) == alike
    assert model.unet.attn_processors == before


def test_token_flow_gives_tokens_of_the_keyframes_around() -> None:
    torch.manual_seed(0)
    flow = TokenFlow(20, seed=0)
    attn = Attention(8, heads=2, dim_head=4)
    layer = TokenFlowProcessor("layer", flow)
    first, *_, last = flow.keys.tolist()
    assert flow.keys.diff().unique().tolist() == [8] and first < 8 and last >= 20 - 8
    moved = torch.randn(5, 8)
    source = torch.stack([moved.roll(k, 0) for k in range(20)])  # the same tokens, elsewhere in each frame
    with torch.no_grad():
        flow.looks = True
        layer(attn, source)
        flow.looks = False
        drawn = layer(attn, source)
    for k in range(20):  # all keyframes attend to the same tokens, so what comes out moves as those do
        assert torch.allclose(drawn[k], drawn[first].roll(k - first, 0), atol=1e-5)


def test_cells_keep_what_is_done_and_know_it_by_its_settings(tmp_path: Path) -> None:
    cells, image = Cells(tmp_path / "cells"), np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)

    one = {"a": 1, "frames": 2}

    def fail() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cells.clip(one, fail)
    assert not cells.has(one)
    assert np.array_equal(cells.clip(one, lambda: image), image)
    assert np.array_equal(Cells(tmp_path / "cells").clip(one, fail), image)
    assert not cells.has({"a": 2, "frames": 2})
    assert cells.numbers(one, "rules", lambda: {"x": 1.0}) == {"x": 1.0}
    assert cells.numbers(one, "rules", lambda: {"x": 2.0}) == {"x": 1.0}
    assert cells.numbers(one, "others", lambda: {"x": 2.0}) == {"x": 2.0}
    assert list(cells.found("a", "others")) == [(one, {"x": 2.0})]
    assert not list(cells.found("a", "rules"))


def test_half_of_the_prompts_are_open_and_say_what_is_asked() -> None:
    cases = [Case(number, 1) for number in range(quality.PROMPTS)]
    assert sum(case.is_open for case in cases) == len(cases) / 2
    for case in cases:
        assert case.is_open == (len(case.asked) < 3)
        assert all(case.asked.get(group, "") in case.prompt for group in ("kind", "colour"))
    full = [case.prompt for case in cases if not case.is_open]
    assert len(set(full)) == len(full)


def test_intervals() -> None:
    assert interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    values = np.random.default_rng(0).normal(5, 1, 400).tolist()
    mean, low, high = interval(values)
    assert mean == pytest.approx(np.mean(values))
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(values) / 20, rel=0.1)


def test_same_sees_a_pixel_another_shape_and_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two trees' results as they are stored; those of the second one are ``now``."""
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    pixel = frames.copy()
    pixel[1, 2, 3] = 0, 7, 1
    now: dict[str, np.ndarray] = {}

    def drawn_by(tree: Path, tiny: Path, folder: Path) -> Path:
        folder.mkdir()
        for name, images in (now if tree == same.ROOT else dict.fromkeys(same.CASES, frames)).items():
            np.save(folder / f"{name}.npy", images)
        return folder

    monkeypatch.setattr(same, "checkout", lambda commit, folder: folder)
    monkeypatch.setattr(same, "checkpoints", lambda folder: folder)
    monkeypatch.setattr(same, "drawn_by", drawn_by)
    names = list(same.CASES)
    for changed, says in [
        ({}, "equal"),
        ({"ddim": pixel}, "up to 7 of 255, in 1 pixels"),
        ({"ddim": frames[:1]}, "was (2, 4, 6, 3), is (1, 4, 6, 3)"),
        ({"ddim": None}, "fails"),
    ]:
        now = dict.fromkeys(names, frames) | changed
        now = {name: images for name, images in now.items() if images is not None}
        result = CliRunner().invoke(main, ["same"])
        rows = result.stdout.splitlines()[1:-1]
        assert [row.split("  ")[0] for row in rows] == names
        assert [row.endswith("  equal") for row in rows] == [name not in changed for name in names]
        assert rows[0].endswith(f"  {says}")
        assert result.exit_code == bool(changed)
        assert result.stdout.splitlines()[-1] == f"{len(names)} cases, of which {len(changed)} differ"


def test_errors_are_one_line() -> None:
    for args, code, says in [
        ([], 2, "Missing command"),
        (["overhead", "--model", "nosuch"], 1, "nosuch"),
        (["same", "--commit", "nosuch"], 1, "nosuch"),
    ]:
        result = CliRunner().invoke(main, args)
        (line,) = result.stderr.splitlines()
        assert result.exit_code == code and line.startswith("zs2kit: error: ") and says in line


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of random weights that have all the parts of the real ones, but are tiny."""
    widths = {
        "sd15": {"block_out_channels": (8, 16, 16, 16)},
        "sdxl": {
            "block_out_channels": (8, 16, 16),
            "attention_head_dim": (1, 1, 2),
            "transformer_layers_per_block": (1, 1, 2),
        },
    }
    for size, given in widths.items():
        tiny = {
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 8 * len(speed.TEXT_ENCODERS[size]),
        }
        if size == "sdxl":
            tiny["projection_class_embeddings_input_dim"] = 8 + 6 * 256
        monkeypatch.setitem(speed.UNETS, size, {**speed.UNETS[size], **tiny, **given})
        monkeypatch.setitem(speed.TEXT_ENCODERS, size, [(8, 1, 1)] * len(speed.TEXT_ENCODERS[size]))
    monkeypatch.setattr(speed, "VAE_WIDTHS", (32, 32, 32, 32))
    monkeypatch.setattr(device, "REPEATS", 1)


ON_CPU = ["--on", "cpu", "--side", 64, "--frames", 2, "--steps", 2]


@pytest.mark.slow
@pytest.mark.parametrize("size", device.SIZES)
def test_edits_on_a_device_are_timed_row_by_row_and_their_parts(tmp_path: Path, shrunk, size: str) -> None:
    args = ["speed", "--size", size, *ON_CPU, "--cells", tmp_path / "cells"]
    shown = run(*args)
    for row in (*device.ROWS, device.PIPELINE):
        assert re.search(rf"^\| {row} \| [\d.]+ \| [\d.]+ \| \d* \|  \| ", shown, re.M)
    assert re.search(r"^\| operators called a step \| [\d,]+\.0 \|$", shown, re.M)
    for target in (*device.TARGETS, *device.RATES[size]):
        assert re.search(rf"^\| {target.says} \| at \w+ [\d.]+ \| [\d.]+ \|$", shown, re.M)
    again, took = run(*args), r" \(took \d+ s\)"  # from the file
    assert re.sub(took, "", again) == re.sub(took, "", shown)
    (file,) = (tmp_path / "cells").glob("*.json")
    assert json.loads(file.read_text())["settings"]["on"].startswith("CPU")
    assert shown[shown.index("| what |") :].strip() in device.section(Cells(tmp_path / "cells"))


@pytest.mark.slow
def test_rows_that_are_timed_are_saved_at_once(tmp_path: Path, shrunk, monkeypatch) -> None:
    """As on a machine that is lent for minutes."""
    args = ["speed", "--size", "sd15", *ON_CPU, "--cells", str(tmp_path)]
    monkeypatch.setattr(device, "ROWS", {"edit": {}, "LCM, 4 steps": device.ROWS["LCM, 4 steps"]})
    timed, ended = device.timed, []

    def ends(work: Any, where: Any) -> Any:
        ended.append(work)
        if len(ended) == 3:
            raise KeyboardInterrupt
        return timed(work, where)

    monkeypatch.setattr(device, "timed", ends)
    assert CliRunner().invoke(main, [str(arg) for arg in args]).exit_code
    (text,) = [path.read_text() for path in tmp_path.glob("*.json")]
    assert json.loads(text)["numbers"].keys() == {device.PIPELINE, "edit"}
    page = device.section(Cells(tmp_path))
    assert "| edit over diffusers' pipeline |" in page and "| LCM" not in page
    shown = run(*args)
    assert str(round(json.loads(text)["numbers"]["edit"]["seconds"], 2)) in shown and "| LCM" in shown


def test_what_needs_a_gpu_runs_part_by_part(tmp_path: Path, monkeypatch, capfd) -> None:
    """One part fails, one takes too long, and the last one runs nevertheless."""
    parts = {
        "tests": (["timeit", "-n", "1", "raise SystemExit(1)"], 60),
        "sd15": (["timeit", "-n", "1", "import time; time.sleep(60)"], 1),
        "puppets": (["zs2kit", "--version"], 60),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # these parts need no GPU
    with pytest.raises(Zs2Error, match="not done: tests, sd15; the same command goes on"):
        gpu.run(list(parts), tmp_path)
    shown = capfd.readouterr().out
    assert "== tests: failed after" in shown and "== sd15: stopped after 1 s" in shown
    assert "== puppets: done after" in shown
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # also where there is one
    with pytest.raises(UsageError, match="torch finds no CUDA device here"):
        gpu.run(list(parts), tmp_path)


def test_readers_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    readers.run(16)
    title, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["pyav", "decord", "opencv"] and "levels off" in title
    assert float(rows[0].split()[-2]) == pytest.approx(0, abs=0.6)  # of the ramp, of 220 levels


def test_ways_to_average_in_joint_attention():
    """Each gives other frames, none changes anything after it, and one block is neither all nor none."""
    model, case = Model.load(tiny_models()["flux-dev"]), Case(0, 3, 32)

    def drawn(**ways):
        return joint.joint(model, case, 2, edited=False, momentum=0.9, noise="orbit", **ways)

    plain, before = drawn(), (layers.self_attention, layers.Layer, type(model.network).tokens)
    ways = [{"layers": each} for each in averaging.LAYERS if each != "all"] + [
        {"text": True},
        {"after_norm": True},
    ]
    found = [drawn(**each) for each in ways]
    for i, one in enumerate([plain, *found]):
        assert all((one != other).any() for other in found[i:])
    assert before == (layers.self_attention, layers.Layer, type(model.network).tokens)
    assert (drawn() == plain).all()
    names = [each.name for each in joint.methods(edited=True)]
    assert len(names) == len(set(names)) == 17 and "frame by frame" in names


@pytest.mark.parametrize("kind", ["v_prediction", "flux-kontext"])
def test_anchored_keys_are_those_of_the_first_frame(kind: str) -> None:
    """They change frames, chunks don't show, and a U-Net's first frame twice is that frame once."""
    model, case = Model.load(tiny_models()[kind]), Case(0, 4, 32)
    before = layers.Layer, torch.nn.functional.scaled_dot_product_attention

    def drawn(**ways: Any) -> np.ndarray:
        made = zs2(model, case, 2, edited=False, noise="independent", guidance_scale=2.0, **ways)
        return made.astype(int)

    whole = drawn(momentum=0.5, anchored=True)
    assert np.abs(whole - drawn(momentum=0.5, anchored=True, chunk_size=2)).max() <= 1
    plain = drawn(momentum=0.5)
    assert np.abs(whole - plain)[1:].max() > 2
    twice = np.abs(drawn(momentum=1.0, anchored=True) - drawn(momentum=1.0)).max()
    assert twice <= 1 if kind == "v_prediction" else twice > 1  # where there is text, it counts for less
    assert before == (layers.Layer, torch.nn.functional.scaled_dot_product_attention)
    assert (drawn(momentum=0.5) == plain).all()


def test_ways_to_average_have_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "numbers", lambda self, method, case: {"PCK@0.1": method.settings["momentum"]})
    monkeypatch.setattr(Cells, "has", lambda self, settings: settings["case"] < 2)
    made = joint.section(Runs(Cells(tmp_path), Model.load(tiny_models()["flux-dev"]), 1))
    titles = re.findall(r"^(.+): \S+, 2 prompts, 16 frames, 1 steps\.$", made, re.M)
    assert titles == ["Clips from text", "Edits by pose"]
    assert "| momentum 0.25 |  |  |  |  |  |  | 25.0% (25.0% to 25.0%) |" in made


@pytest.mark.parametrize(("kind", "momentum"), [("epsilon", 0.98), ("flux-dev", 0.25)])
def test_what_is_drawn_is_known_by_the_models_own_momentum(
    kind: str, momentum: float, tmp_path: Path
) -> None:
    runs = Runs(Cells(tmp_path), Model.load(tiny_models()[kind]), 1)
    assert runs.settings(zs2_method("zs2kit", edited=False), Case(0, 2, 32))["momentum"] == momentum


@pytest.mark.parametrize("name", ["people", "gpu", "quality"])
def test_the_folder_of_cells_is_the_users(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    command = main.commands[name]
    for args, folder in (([], ".cache/zs2kit/bench"), (["--cells", "~/cells"], "cells")):
        assert command.make_context(name, args).params["cells"] == tmp_path / folder


@pytest.mark.parametrize(
    ("kind", "momentum", "heading"),
    [
        ("epsilon", 0.98, "Anchored keys"),
        ("flux-dev", 0.25, "Anchored keys in joint attention"),
    ],
)
def test_anchored_keys_have_tables_of_differences(
    kind: str, momentum: float, heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchored, "FRAMES", 2)
    monkeypatch.setattr(anchored, "LONG", 3)
    said = {"zs2kit": 2.0, "anchored, momentum 0.5": 1.5}
    monkeypatch.setattr(
        Runs, "numbers", lambda self, method, case: {"colour drift to first": said.get(method.name, 3.0)}
    )
    monkeypatch.setattr(Cells, "has", lambda self, settings: settings["case"] < 2)
    runs = Runs(Cells(tmp_path), Model.load(tiny_models()[kind]), 1)
    made = anchored.section(runs)
    assert made.startswith(f"\n## {heading}\n") and heading in SECTIONS
    assert re.findall(r"^(.+): \S+, 2 prompts, \d frames, 1 steps\.$", made, re.M) == [
        "Clips from text",
        "Long clips from text",
        "Edits by pose",
    ]
    assert made.count("| zs2kit |  |  |  | 2.0 (2.0 to 2.0) |") == 3
    assert "with reference" not in made
    assert made.count(f"| anchored, momentum {momentum} |  |  |  | 1.0 (1.0 to 1.0) |") == 3
    assert made.count("| anchored, momentum 0.5 |  |  |  | -0.5 (-0.5 to -0.5) |") == 3
