"""Files of a repository on the hub, or of a folder here; and what to do about those that are missing."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import diffusers
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open

from zs2kit.errors import ModelError
from zs2kit.quiet import quiet

ON_THE_HUB = r"[\w-][\w.-]*/[\w.-]+"
# What a checkpoint's folder needs: weights whole or in parts, but not as variants, and no single file of
# everything; after the !, what it doesn't need
CHECKPOINT = (
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*/model.safetensors",
    "*/model-*.safetensors",
    "*/diffusion_pytorch_model.safetensors",
    "*/diffusion_pytorch_model-*.safetensors",
    "!safety_checker/*",
)
_CHECKER = {"safety_checker": None}  # it checks pictures, which never pass through the pipeline


def folder_with(
    name: str | Path,
    files: Sequence[str],
    option: str | None = None,
    *,
    further: Sequence[str] = (),
    inside: str = "",
) -> Path:
    """Return a folder with ``files``: the one called so, or one for the repository that is called so.

    Files of a repository are fetched, unless they are in the hub's cache. A .safetensors file may also be
    there as a variant, such as fp16. option: what names the folder, or what is ``inside`` of it, such as
    pose.model, for messages. further: files that will be needed later, which the advice is to name, too, or
    after a ! to leave out.

    Raises `ModelError` if files are missing, damaged or out of reach.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or not re.fullmatch(ON_THE_HUB, str(name)):
            what = "this is a file" if folder.exists() else "there is no such folder"
            raise ModelError(f"{_given(option)}{name}: {what}", "give a folder, or a name on the hub")
        folder = _fetched(str(name), files, further, option, inside)
    elif missing := [file for file in files if not _found(folder, file)]:
        raise _incomplete(f"{_given(option)}{name}", folder, missing)
    for each in (path for file in files for path in _found(folder, file)):
        check_whole(each)
    return folder


def _found(folder: Path, file: str) -> list[Path]:
    """The file, or those of a pattern; or what is there of it as a variant, such as fp16, or in parts."""
    plain = folder / file
    if "*" in file:
        return list(folder.glob(file))
    return [plain] if plain.is_file() else list(plain.parent.glob(f"{plain.stem}[.-]*{plain.suffix}"))


def _fetched(
    name: str, files: Sequence[str], further: Sequence[str], option: str | None, inside: str
) -> Path:
    halves = [re.sub(r"\.safetensors$", ".fp16.safetensors", file) for file in files]
    try:
        with quiet():
            folder = Path(snapshot_download(name, allow_patterns=[*files]))
            if not all(_found(folder, file) for file in files):
                folder = Path(snapshot_download(name, allow_patterns=halves))
    except Exception as error:  # of the hub's library, and of those beneath it
        raise _out_of_reach(name, _as_arguments([*files, *further]), option, inside, error) from error
    if missing := [file for file in files if not _found(folder, file)]:
        if constants.HF_HUB_OFFLINE:  # the rest is in the hub's cache
            raise _out_of_reach(name, _as_arguments([*files, *further]), option, inside)
        raise ModelError(
            f"{_given(option)}{name} has no {' and no '.join(missing)} on the hub",
            "name another repository; weights are loaded only from safetensors",
        )
    return folder


def _as_arguments(files: Sequence[str]) -> str:
    """Files and patterns as the command hf download takes them; patterns exclude plain names there."""
    if any("*" in file for file in files):
        flags = (("--exclude", each[1:]) if each.startswith("!") else ("--include", each) for each in files)
        return " ".join(f'{flag} "{pattern}"' for flag, pattern in flags)
    return " ".join(files)


def _out_of_reach(
    name: str, files: str, option: str | None, inside: str, error: Exception | None = None
) -> ModelError:
    """Return the error that says why a repository can't be downloaded, and how to get it by hand."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{_given(option)}{name} can be downloaded only after accepting its terms",
            f"do so at huggingface.co/{name}, then log in: hf auth login",
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"{_given(option)}there is no {name} on the hub, or it is private",
            "check the name, or log in: hf auth login",
        )
    if _is_full(error):
        return ModelError(
            f"{_given(option)}{name} doesn't fit on the disk of the hub's cache, {constants.HF_HUB_CACHE}",
            "free some space, or set HF_HOME to a folder on a larger disk; what was downloaded is kept",
        )
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub can't be reached"
    folder = name.rpartition("/")[2]
    given = f"{folder}/{inside}".rstrip("/")
    then = f" and give `{option}={given}`" if option else " and give that folder instead"
    return ModelError(
        f"{_given(option)}{f'{name}/{inside}'.rstrip('/')} is not on this machine, and {why}",
        f"on a machine that is online, run: hf download {name} {files} --local-dir {folder}; copy the folder "
        f"here{then}",
    )


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, says that a disk is full."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _given(option: str | None) -> str:
    return f"`{option}`: " if option else ""


def _incomplete(name: str, folder: Path, missing: Sequence[str]) -> ModelError:
    begun = {each.name for each in folder.glob(".cache/huggingface/download/**/*.incomplete")}
    if begun:
        return ModelError(f"{name}: its download isn't finished", "run hf download again, which continues it")
    pickles = [each for suffix in (".bin", ".pt", ".pth", ".ckpt") for each in folder.glob(f"*{suffix}")]
    if pickles and all(file.endswith(".safetensors") for file in missing):
        return ModelError(f"{name}: its weights are pickles", "convert them to safetensors first")
    named = {"*.json": "config.json", "*.safetensors": ".safetensors file"}
    return ModelError(
        f"{name}: this folder has no {' and no '.join(named.get(each, each) for each in missing)}",
        "if its download is incomplete, repeat it; otherwise give another folder",
    )


def check_whole(file: Path) -> None:
    """Raise `ModelError` if a .safetensors or a .json file is damaged or incomplete."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                pass
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{file} is not a {file.suffix[1:]} file, or is incomplete", "download it again"
        ) from error


def checkpoint_folder(name: str | Path, lent: Collection[str] = ()) -> Path:
    """Return the folder of the checkpoint that is called so, or that of the repository that is called so.

    A repository is fetched, unless it is in the hub's cache. Raises `ModelError` if it can't be had, or if
    parts of it are missing or damaged; those that are ``lent`` to it needn't be there.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            with quiet():
                snapshot_download(str(name), allow_patterns=["model_index.json"])
                return Path(_downloaded(str(name)))
        except Exception as error:
            raise _out_of_reach(str(name), _as_arguments(CHECKPOINT), "model", "", error) from error
    for part in _parts(folder):
        if part in lent:
            continue
        files = _files_of(part)
        if not any(_found(folder / part, each) for each in files):
            raise _incomplete(str(name), folder, [f"{part}/{files[0]}"])
        if files == _NETWORK and not any((folder / part).glob("*.safetensors")):
            raise _incomplete(f"{name}/{part}", folder / part, ["*.safetensors"])
        for file in (*(folder / part).glob("*.safetensors"), *(folder / part).glob("*config.json")):
            check_whole(file)
    return folder


_NETWORK = ("config.json",)


def _files_of(part: str) -> tuple[str, ...]:
    """Files of which a part of a checkpoint has one at least."""
    if part == "scheduler":
        return ("scheduler_config.json",)
    if part.startswith("tokenizer"):
        return ("vocab.json", "tokenizer.json", "*.model")
    return _NETWORK if part.startswith(("unet", "vae", "transformer", "text_encoder")) else ("*.json",)


def _downloaded(name: str) -> str:
    download = diffusers.DiffusionPipeline.download
    try:
        return str(download(name, use_safetensors=True, **_CHECKER))
    except (OSError, ValueError) as error:
        if error.__cause__ is not None or _is_full(error):  # the hub's answer, or the disk's
            raise
        try:
            return str(download(name, use_safetensors=True, variant="fp16", **_CHECKER))
        except (OSError, ValueError):
            raise ModelError(
                f"{name} has no weights as .safetensors files on the hub", "name another checkpoint"
            ) from error


def _parts(folder: Path) -> list[str]:
    """The subfolders that a checkpoint must have, by its model_index.json."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return [
            name
            for name, kind in index.items()
            if isinstance(kind, list)
            and all(isinstance(each, str) for each in kind)
            and name not in ("safety_checker", "feature_extractor")
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: its model_index.json can't be read", "download it again") from error
