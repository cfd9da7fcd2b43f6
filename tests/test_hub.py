"""Weights that aren't here: which ones each plugin needs, by family, and how to get them."""

from __future__ import annotations

import errno
import json
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from diffusers import ControlNetModel
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

import zs2kit
from zs2kit import Model, plugins
from zs2kit.errors import ModelError, UsageError
from zs2kit.networks import hub
from zs2kit.networks.hub import folder_with
from zs2kit.testing import drawn_clip, tiny_model, tiny_models

MODELS = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
WEIGHTS = "diffusion_pytorch_model.safetensors"
# What is fetched by default, for Stable Diffusion 1, 2 and XL; None: that is refused
DEFAULTS = {
    "pose": (
        "lllyasviel/control_v11p_sd15_openpose",
        "thibaud/controlnet-sd21/control_v11p_sd21_openpose.safetensors",
        "xinsir/controlnet-openpose-sdxl-1.0",
    ),
    "depth": (
        "lllyasviel/control_v11f1p_sd15_depth",
        "thibaud/controlnet-sd21/control_v11p_sd21_depth.safetensors",
        "diffusers/controlnet-depth-sdxl-1.0",
    ),
    "edges": (
        "lllyasviel/control_v11p_sd15_canny",
        "thibaud/controlnet-sd21/control_v11p_sd21_canny.safetensors",
        "diffusers/controlnet-canny-sdxl-1.0",
    ),
    "edges.hed": (
        "lllyasviel/control_v11p_sd15_softedge",
        "thibaud/controlnet-sd21/control_v11p_sd21_hed.safetensors",
        "TheMistoAI/MistoLine/mistoLine_fp16.safetensors",
    ),
    "edges.lineart": (
        "lllyasviel/control_v11p_sd15_lineart",
        "thibaud/controlnet-sd21/control_v11p_sd21_lineart.safetensors",
        "TheMistoAI/MistoLine/mistoLine_fp16.safetensors",
    ),
    "edges.scribble": (
        "lllyasviel/control_v11p_sd15_scribble",
        "thibaud/controlnet-sd21/control_v11p_sd21_scribble.safetensors",
        "xinsir/controlnet-scribble-sdxl-1.0",
    ),
    "reference": (
        "h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
        None,
        "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors",
    ),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> list[Model]:
    """Models as wide as those of Stable Diffusion 1, 2 and XL, without side networks."""
    models = []
    for width, xl in ((768, False), (1024, False), (1024, True)):
        folder = tiny_model(tmp_path_factory.mktemp("sd"), unet={"cross_attention_dim": width}, sdxl=xl)
        for each in folder.glob("controlnet_*"):
            shutil.rmtree(each)
        models.append(Model.load(folder))
    return models


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refusal(model: Model, name: str, /, **options: str) -> str:
    with pytest.raises((ModelError, UsageError)) as error:
        zs2kit.edit(drawn_clip(1), "a", plugins=[plugins.build(name, options)], model=model)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_models_know_their_family(families):
    assert [each.family for each in families] == ["sd1", "sd2", "sdxl"]
    assert Model.load(tiny_models()["epsilon"]).family is None


@pytest.mark.parametrize("case", DEFAULTS)
def test_what_is_missing_is_named_with_the_way_to_it(families, offline, case):
    plugin, _, detector = case.partition(".")
    option = "reference.adapter" if plugin == "reference" else f"{plugin}.model"
    for model, default in zip(families, DEFAULTS[case], strict=True):
        text = refusal(model, plugin, **({"detector": detector} if detector else {}))
        if default is None:
            assert f"`{option}`" in text and "hf download" not in text
            continue
        assert f"`{option}`: {default} is not on this machine, and HF_HUB_OFFLINE is set" in text
        repository, file = "/".join(default.split("/")[:2]), "/".join(default.split("/")[2:])
        files = file or f"config.json {WEIGHTS}"
        folder = repository.partition("/")[2]
        assert f"hf download {repository} {files}" in text and f"--local-dir {folder}" in text
        assert text.endswith(f"give `{option}={folder}{f'/{file}' if file else ''}`")
        assert f"`{default}`" in MODELS, "docs/models.md names it"


def test_a_model_of_another_family_has_no_default(tmp_path):
    folder = tiny_model(tmp_path / "other")
    for each in folder.glob("controlnet_*"):
        shutil.rmtree(each)
    for plugin in ("pose", "depth", "edges", "reference"):
        assert re.search(
            rf"{plugin} has no default .* name one: `{plugin}\.", refusal(Model.load(folder), plugin)
        )


def test_detectors_and_their_weights(families, offline):
    own = {"model": "controlnet_pose"}
    model = Model.load(tiny_models()["epsilon"])
    text = refusal(model, "pose", detector="openpose", **own)
    assert "`pose.annotators`: lllyasviel/Annotators is not on this machine" in text
    assert "body_pose_model.pth hand_pose_model.pth facenet.pth --local-dir Annotators" in text
    text = refusal(model, "control", detector="anyline", **own)
    assert "hf download TheMistoAI/MistoLine Anyline/MTEED.pth --local-dir MistoLine" in text
    assert text.endswith("give `control.annotators=MistoLine/Anyline`")
    text = refusal(model, "depth", detector="depth-anything/Depth-Anything-V2-Small-hf")
    assert '--include "*.json" --include "model.safetensors" --local-dir Depth-Anything-V2-Small-hf' in text
    text = refusal(model, "mask", model="nvidia/segformer-b0-finetuned-ade-512-512", label="wall")
    assert text.endswith("give `mask.model=segformer-b0-finetuned-ade-512-512`")


def test_checkpoints_loras_and_embeddings(offline):
    def refused(name, **how):
        with pytest.raises(ModelError) as error:
            Model.load(name, **how)
        return str(error.value)

    folder = tiny_models()["epsilon"]
    assert re.search(r"`model`: me/mine is not on .* --local-dir mine; .*`model=mine`", refused("me/mine"))
    text = refused(folder, loras={"me/mine": 1})
    assert "hf download me/mine pytorch_lora_weights.safetensors" in text and "`loras=mine/" in text
    text = refused(folder, embeddings=["me/mine/a.safetensors"])
    assert "hf download me/mine a.safetensors" in text and text.endswith("`embeddings=mine/a.safetensors`")


# Folders that are not whole


@pytest.fixture
def network(tmp_path) -> Path:
    return shutil.copytree(tiny_models()["epsilon"] / "controlnet_edges", tmp_path / "edges")


def spoil(network: Path, how: str) -> None:
    weights, config = network / WEIGHTS, network / "config.json"
    if how == "unfinished":
        weights.unlink()
        (network / ".cache/huggingface/download").mkdir(parents=True)
        (network / ".cache/huggingface/download/abc.incomplete").touch()
    elif how == "pickles":
        weights.rename(weights.with_suffix(".bin"))
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "config cut":
        config.write_text(config.read_text()[:100])
    else:
        (network / how).unlink()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (WEIGHTS, f"this folder has no {WEIGHTS}; if its download is incomplete, repeat"),
        ("config.json", "this folder has no config.json; if its download"),
        ("unfinished", "its download isn't finished; run hf download again"),
        ("pickles", "its weights are pickles; convert them to safetensors"),
        ("cut", f"{WEIGHTS} is not a safetensors file, or is incomplete; download it again"),
        ("config cut", "config.json is not a json file, or is incomplete"),
    ],
)
def test_a_folder_that_is_not_whole(network, how, says):
    spoil(network, how)
    assert says in refusal(Model.load(tiny_models()["epsilon"]), "edges", model=str(network))


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (f"unet/{WEIGHTS}", "unet: this folder has no .safetensors file; if its"),
        ("vae/config.json", "this folder has no vae/config.json; if its"),
        ("text_encoder/*", "this folder has no text_encoder/config.json"),
        ("tokenizer/*", "this folder has no tokenizer/vocab.json"),
        ("scheduler/*", "this folder has no scheduler/scheduler_config.json"),
    ],
)
def test_a_checkpoint_that_is_not_whole(tmp_path, lost, says):
    folder = shutil.copytree(tiny_models()["epsilon"], tmp_path / "sd")
    for each in folder.glob(lost):
        each.unlink()
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert says in str(error.value)


def test_a_name_that_is_nothing(tmp_path):
    model = Model.load(tiny_models()["epsilon"])
    assert "there is no such folder" in refusal(model, "edges", model="nosuch")
    file = tmp_path / "a.txt"
    file.touch()
    assert "this is a file" in refusal(model, "edges", model=str(file))


# The hub's cache


@pytest.fixture
def cache(tmp_path, monkeypatch, offline) -> Path:
    """The place of me/edges in an empty cache of the hub's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--me--edges"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123")
    return place / "snapshots" / "0123"


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_is_in_the_cache_is_used(cache, variant):
    whole = shutil.copytree(tiny_models()["epsilon"] / "controlnet_edges", cache)
    if variant:
        (whole / WEIGHTS).rename(whole / f"diffusion_pytorch_model.{variant}.safetensors")
    model = Model.load(tiny_models()["epsilon"])
    here = model.load_network(ControlNetModel, tiny_models()["epsilon"] / "controlnet_edges")
    cached = model.load_network(ControlNetModel, "me/edges")
    assert all(torch.equal(value, cached.state_dict()[name]) for name, value in here.state_dict().items())


def test_what_is_in_the_cache_in_part_is_said(cache):
    cache.mkdir(parents=True)
    (cache / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    assert folder_with("me/edges", ["config.json"]) == cache
    with pytest.raises(ModelError, match="me/edges is not on this machine"):
        folder_with("me/edges", ["config.json", WEIGHTS])


# What the hub answers


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "there is no me/mine on the hub, or it is private; check the name, or log in"),
        (
            403,
            "GatedRepo",
            "me/mine can be downloaded only after accepting its terms; do so at huggingface.co/me/",
        ),
        (
            500,
            "",
            "me/mine is not on this machine, and the hub can't be reached; on a machine that is online",
        ),
    ],
)
def test_answers_of_the_hub(monkeypatch, status, code, says):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(ModelError) as error:
            folder_with("me/mine", ["config.json"], "pose.model")
    finally:
        server.shutdown()
        server.server_close()
    assert f"`pose.model`: {says}" in str(error.value)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("CAS: No space left on device")]
)
def test_a_full_disk_is_said(monkeypatch, error):
    def full(*_, **__):
        raise ValueError("a file") from error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "snapshot_download", full)
    for fetch in (lambda: folder_with("me/mine", ["config.json"]), lambda: hub.checkpoint_folder("me/mine")):
        with pytest.raises(ModelError, match=r"me/mine doesn't fit on the disk .* set HF_HOME"):
            fetch()


def test_the_advice_on_a_download_names_all_that_is_needed_and_nothing_twice():
    """Weights are whole, in parts or in variants; some repositories have a single file beside the folders."""
    included = [each for each in hub.CHECKPOINT if not each.startswith("!")]
    command = MODELS.partition("hf download stable-diffusion-v1-5/")[2].partition("```")[0]
    assert re.findall(r'--include "(\S+)"', command) == included
    wanted = ["model_index.json", "unet/config.json", "tokenizer/merges.txt", "tokenizer_2/spiece.model"]
    wanted += ["tokenizer/chat_template.jinja", "text_encoder/model.safetensors", f"unet/{WEIGHTS}"]
    wanted += ["text_encoder_2/model-00001-of-00002.safetensors", f"transformer/{WEIGHTS}.index.json"]
    wanted += ["transformer/diffusion_pytorch_model-00003-of-00003.safetensors"]
    others = ["flux1-dev.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/model.onnx"]
    others += ["text_encoders/t5xxl_fp16.safetensors", "text_encoder/model.fp16-00001-of-00002.safetensors"]
    assert list(filter_repo_objects(wanted + others, allow_patterns=included)) == wanted
