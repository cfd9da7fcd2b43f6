"""The pages for authors are what the code gives."""

from __future__ import annotations

import ast
import inspect
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
import reliability

import zs2kit
from zs2kit import cli, hookspecs, plugins, settings
from zs2kit.bench import ablation, anchored, every, joint, memory, middle, page, quality, speed
from zs2kit.puppets import evaluate
from zs2kit.puppets.train import WEIGHTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEMPLATE = ROOT / "zs2kit" / "template"
HOOKS = {name: each for name, each in vars(hookspecs).items() if hasattr(each, "zs2kit_spec")}


MAKE = runpy.run_path(str(DOCS / "make.py"))
EXAMPLES = runpy.run_path(str(DOCS / "examples.py"))


@pytest.mark.parametrize("name", MAKE["PAGES"])
def test_pages_made_from_the_code_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == MAKE["PAGES"][name](), "run: python docs/make.py"


def test_every_command_and_option_is_documented() -> None:
    text = (DOCS / "cli.md").read_text()
    for command in cli.main.commands.values():
        section = text.partition(f"\n## zs2kit {command.name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{', '.join(parameter.opts)}" in section, f"{command.name}: {parameter.name}"
    assert set(re.findall(r"ZS2KIT_[A-Z]\w+", text)) >= {
        str(each.envvar) for it in cli.main.commands.values() for each in it.params if each.envvar
    }


def test_every_public_name_is_documented_with_an_example() -> None:
    modules = ("metrics", "plan", "verify", "testing")
    names = {f"{module}.{name}" for module in modules for name in MAKE["public"](f"zs2kit.{module}")}
    names |= set(zs2kit.__all__)
    assert names == EXAMPLES["EXAMPLES"].keys(), "each public name has one example in docs/examples.py"
    headings = set(re.findall(r"^### zs2kit\.(\S+)$", (DOCS / "python.md").read_text(), re.M))
    assert headings == names


def test_the_examples_of_the_page_for_scripts_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = zs2kit.read(ROOT / "samples" / "robot-dance.mp4", end=0.2)
    images = [np.ascontiguousarray(frame.image[::2, ::2]) for frame in sample]
    assert len(images) == 3
    zs2kit.write(tmp_path / "clip.mp4", zs2kit.Clip.from_images(images, rate=12))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "example", ModuleType("example"))
    first: dict[str, object] = {"__name__": "example"}
    exec(EXAMPLES["FIRST"], first)
    for name, example in EXAMPLES["EXAMPLES"].items():
        try:
            exec(compile(example, f"the example of {name}", "exec", dont_inherit=True), dict(first))
        except Exception as error:
            raise AssertionError(f"the example of {name} in docs/examples.py fails: {error}") from error
    assert "stopped after 2 frames" in capsys.readouterr().out


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_exact_arguments(name: str) -> None:
    section = (DOCS / "hooks.md").read_text().partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    signature = section.partition("```python\n")[2].partition("```")[0]
    written = [each.arg for each in ast.parse(signature).body[0].args.args]
    assert written == ["self", *inspect.signature(HOOKS[name]).parameters]
    assert f"`{name}`" in (DOCS / "plugins.md").read_text()


@pytest.mark.parametrize("name", plugins.installed())
def test_every_option_of_a_plugin_is_documented(name: str) -> None:
    section = (DOCS / "options.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for each in settings.options(plugins.load(name)):
        assert f"| `{name}.{each.name}` | {each.takes} | " in section and each.help in section


@pytest.mark.parametrize("word", ["plugin", "filter"])
def test_the_page_for_authors_shows_the_files_that_are_written(word: str) -> None:
    page, template = (DOCS / f"{word}s.md").read_text(), TEMPLATE / word
    for file in ("zs2kit_example.py", "tests/test_example.py"):
        assert f"```python\n{(template / file).read_text()}```" in page
    entry = re.search(r"^\[project.entry-points.*\]\n.*\n", (template / "pyproject.toml").read_text(), re.M)
    assert f"```toml\n{entry[0]}```" in page


@pytest.mark.parametrize("page", [each.name for each in DOCS.glob("*.md")])
def test_every_page_shows_a_picture(page: str) -> None:
    assert re.search(r"!\[[^\]]+\]\(|<img ", (DOCS / page).read_text())


def test_files_that_are_named_exist() -> None:
    for path in DOCS.glob("*.md"):
        for file in re.findall(r"`((?:plugins|samples|docs|tests)/\w+\.\w+)`", path.read_text()):
            assert (ROOT / file).exists() or (TEMPLATE / "plugin" / file).exists(), f"{path.name}: {file}"


def test_the_page_on_the_house_names_files_and_names_that_exist() -> None:
    page = (DOCS / "architecture.md").read_text()
    paths = set(re.findall(r"`((?:zs2kit|plugins|tests|docs)/[\w/.]*|pyproject\.toml)`", page))
    assert len(paths) > 40 and [path for path in paths if not (ROOT / path).exists()] == []
    for kind, where in re.findall(r"`([A-Z]\w+)`[^`|]* (?:in|of) `(zs2kit/[\w/]+\.py)`", page):
        assert re.search(rf"^(class )?{kind}\b", (ROOT / where).read_text(), re.M), f"{kind} in {where}"
    modules = {f"zs2kit/{path.name}" for path in (ROOT / "zs2kit").glob("*.py") if path.name[0] != "_"}
    assert modules - paths <= {f"zs2kit/{name}.py" for name in ("beside", "memory", "quiet")}


def test_what_was_found_stands_in_the_tables() -> None:
    found, _, tables = (DOCS / "results.md").read_text().partition("\n## How it was measured\n")
    numbers = re.findall(r"\d+\.\d+%?|\d+%", found.partition("\n## In short\n")[2])
    assert len(numbers) > 20
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d%])", tables), number


def test_pages_have_the_words_of_what_makes_them() -> None:
    results = (DOCS / "results.md").read_text()
    texts = [page.PAGE, page.LIMITATIONS, quality.GENERATION, quality.EDITING, ablation.GRID]
    texts += [quality.TRIED_GENERATION, quality.TRIED_EDITING, ablation.SEARCH]
    texts += [anchored.ABOUT, anchored.FOUND, joint.NOTES]
    texts += [speed.SPEED, speed.SPEED_OF_EDITS, every.NOTES, middle.NOTES, memory.FILTERS]
    for each in texts:
        assert each in results, each
    assert reliability.PAGE in (DOCS / "reliability.md").read_text()
    numbers = json.loads((DOCS / "puppets.json").read_text())
    steps = json.loads((WEIGHTS / "training.json").read_text())
    assert (DOCS / "puppets.md").read_text() == evaluate.page(numbers, steps)
