"""Plugins of others: a new one from its template to an edit, broken ones, and those that fail at work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from shell import run

from zs2kit import cli, io, plugins
from zs2kit.errors import PluginError
from zs2kit.testing import drawn_clip

SOUND = """
from dataclasses import dataclass
import zs2kit
from zs2kit import hookimpl, option

@dataclass(eq=False)
class Plugin(zs2kit.Plugin):
    '''Does nothing.'''
    amount: int = option(1, "Of nothing.")

    @hookimpl
    def prepare(self):
        pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install distributions as pip does, into a folder of their own."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(name: str, source: str, module: str | None = None) -> None:
        module = module or f"zs2kit_{name}"
        (site / f"{module}.py").write_text(dedent(source))
        monkeypatch.delitem(sys.modules, module, raising=False)
        about = site / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[zs2kit]\n{name} = {module}:Plugin\n")

    return install


# A new one


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `zs2kit plugins new` wrote."""
    folder = tmp_path_factory.mktemp("new") / "zs2kit-soft_frame"
    done = run("plugins", "new", "soft_frame", "--out", folder)
    assert (done.exit_code, done.stdout) == (0, f"{folder}\n"), done.output
    return folder


def test_a_new_plugin_installs_passes_its_test_and_edits(new, tiny_folders, tmp_path, monkeypatch):
    def python(*args: object) -> str:
        done = subprocess.run([sys.executable, *args], cwd=new, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    site = str(tmp_path / "site")
    python("-m", "pip", "install", "-q", *offline, "--target", site, ".")
    monkeypatch.setenv("PYTHONPATH", site)
    assert "1 passed" in python("-m", "pytest", "-p", "no:cacheprovider", "tests")
    monkeypatch.syspath_prepend(site)
    clip = io.write(tmp_path / "clip.mp4", drawn_clip(2))
    edit = ["edit", clip, "--plugin", "soft_frame", "--set", "soft_frame.width=0.3", "--prompt", "x"]
    done = run(*edit, "--model", tiny_folders["epsilon"], "--steps", 1)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'clip-soft_frame.mp4'}\n"), done.output
    assert len(list(io.read(tmp_path / "clip-soft_frame.mp4"))) == 2


def test_a_new_plugin_has_its_own_name_everywhere(new: Path):
    written = sorted(str(each.relative_to(new)) for each in new.rglob("*.*") if each.is_file())
    assert {"README.md", "pyproject.toml", "tests/test_soft_frame.py", "zs2kit_soft_frame.py"} <= {*written}
    for name in ("README.md", "pyproject.toml", "tests/test_soft_frame.py", "zs2kit_soft_frame.py"):
        assert "example" not in (new / name).read_text().lower(), name
    assert "class SoftFrame(Plugin):" in (new / "zs2kit_soft_frame.py").read_text()


@pytest.mark.parametrize(
    "name, says",
    [
        ("Frame", "lower-case"),
        ("soft-frame", "lower-case"),
        ("2d", "lower-case"),
        ("none", "lower-case"),
        ("new", "can't be called 'new'"),
        ("pose", "already"),
        ("plugins", "already"),  # its module would be that of ours
    ],
)
def test_a_name_that_cannot_be(name: str, says: str, tmp_path: Path):
    done = run("plugins", "new", name, "--out", tmp_path / "new")
    assert done.exit_code == 2 and says in done.stderr and not (tmp_path / "new").exists()
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        done = run("plugins", "new", "other_frame", "--out", folder)
        assert done.exit_code == 2 and "--out" in done.stderr and len(done.stderr.splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_is_a_command_is_no_name():
    assert {*cli.plugins.commands, "none"} == {*plugins.RESERVED}


# Installed ones, broken or not


@pytest.mark.parametrize(
    "source, says",
    [
        ("import nosuchmodule", "can't be imported: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("raise SystemExit(3)", "can't be imported: SystemExit: 3"),
        ("def Plugin(): pass", "is not a dataclass derived from zs2kit.Plugin"),
        (SOUND.replace("option(1", "int(1").replace(', "Of nothing."', ""), "is not described"),
        (SOUND.replace("amount: int", "amount: 'Path'"), "types can't be read: name 'Path' is not defined"),
        (SOUND.replace("amount: int", "amount: bytes"), "can't be"),
        (SOUND.replace("def prepare(self)", "def prepares(self)"), "unknown hook"),
        (SOUND.replace("    @hookimpl\n", ""), "not marked as a hook"),
        (SOUND + "    def __post_init__(self): 1 / 0", "can't be created: ZeroDivisionError"),
    ],
)
def test_a_broken_plugin_is_found_and_the_others_work(source: str, says: str, install):
    install("broken", source)
    install("sound", SOUND)
    done = run("plugins", "--check")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.exit_code == 1 and says in lines.pop("broken"), done.output
    assert {"pose", "sound"} <= {*lines} and all(line.endswith("  works") for line in lines.values())
    (line,) = done.stderr.splitlines()
    assert line.startswith("zs2kit: error: 1 of ") and line.endswith("can't be used: broken")
    assert run("plugins", "sound").exit_code == 0 and plugins.build("sound", {}).amount == 1
    assert "broken" in run("plugins").stdout  # listed, since nothing is imported


def test_two_plugins_of_one_name_stop_no_other(install):
    install("twin", SOUND)
    install("twin", SOUND, "zs2kit_other_twin")
    done = run("plugins", "twin")
    assert done.exit_code == 1 and "two plugins are called 'twin'" in done.stderr
    assert run("plugins", "pose").exit_code == 0
    assert "twin" in run("plugins", "--check").stderr


def test_a_check_of_sound_plugins():
    done = run("plugins", "--check", "--json")
    assert done.exit_code == 0, done.output
    assert {each["fault"] for each in json.loads(done.stdout)} == {None}
    assert run("plugins", "--check", "pose").exit_code == 2


# Those that fail at work

FAILING = """
from dataclasses import dataclass
import zs2kit
from zs2kit import hookimpl, option

@dataclass(eq=False)
class Plugin(zs2kit.Plugin):
    '''Fails, the third time.'''

    @hookimpl
    def HOOK(self):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == TIMES:
            raise ValueError("on\\npurpose")
"""


@pytest.mark.parametrize(
    "hook, times", [("setup", 1), ("prepare", 2), ("keep", 1), ("denoiser_inputs", 3), ("finish", 1)]
)
def test_a_plugin_that_fails_is_named_and_whole_chunks_are_kept(hook, times, install, tiny_folders, tmp_path):
    install("failing", FAILING.replace("HOOK", hook).replace("TIMES", str(times)))
    (tmp_path / "clips").mkdir()
    clip = io.write(tmp_path / "clips" / "clip.mp4", drawn_clip(4))
    before = clip.read_bytes()
    edit = ["edit", clip, "--plugin", "failing", "--model", tiny_folders["epsilon"], "--prompt", "x"]
    quick = ["--steps", "2", "--chunk-size", "2"]
    done = run(*edit, *quick)
    assert (done.exit_code, done.stdout) == (1, "")
    kept = {"prepare": 2, "finish": 4}.get(hook)  # frames of chunks that were made before
    note = f"; {kept} of 4 frames are saved; to resume, run the same with --resume" if kept else ""
    failed = f"plugin 'failing' failed in {hook}(): ValueError: on"  # the first line of what it says
    assert done.stderr == f"zs2kit: error: {failed}{note}\n"
    journal = [".clip-failing.mp4.zs2kit"] if kept else []
    assert sorted(each.name for each in clip.parent.iterdir()) == [*journal, "clip.mp4"]
    assert clip.read_bytes() == before
    if hook == "setup":
        told = run(*edit, *quick, "--verbose").stderr
        assert "Traceback" in told and "zs2kit_failing.py" in told and told.endswith(done.stderr)


def test_every_plugin_of_ours_says_what_it_does():
    for name in plugins.installed():
        text = run("plugins", name).stdout
        assert text and "None" not in text.splitlines()[2], name


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("wants_frist", "wants_first"),
        ("follow_source", "follows_source"),
        ("default_models", "default_model"),
    ],
)
def test_an_attribute_that_is_nearly_one_of_ours_is_an_error(wrong: str, right: str, install):
    install("typing", SOUND.replace("    @hookimpl", f"    {wrong} = None\n\n    @hookimpl", 1))
    done = run("plugins", "--check")
    assert f"plugin 'typing' has a {wrong}, which zs2kit doesn't know; did you mean {right}?" in done.stdout
    with pytest.raises(PluginError, match=right):
        plugins.build("typing", {})


def test_the_list_says_what_each_plugin_does(install):
    install("sound", SOUND)
    lines = {line.split()[0]: line for line in run("plugins").stdout.splitlines()}
    assert lines["sound"].endswith("Does nothing.") and "skeletons" in lines["pose"]
    assert all(len(line.split()) > 6 for name, line in lines.items() if name != "sound")
