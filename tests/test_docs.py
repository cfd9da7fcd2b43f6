"""The pages for authors are what the code gives."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from pathlib import Path

import pytest

from zs2kit import hookspecs, plugins, settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEMPLATE = ROOT / "zs2kit" / "template"
HOOKS = {name: each for name, each in vars(hookspecs).items() if hasattr(each, "zs2kit_spec")}


@pytest.mark.parametrize("page", ["hooks", "options"])
def test_pages_made_from_the_code_are_up_to_date(page: str) -> None:
    made = runpy.run_path(str(DOCS / "make.py"))[f"{page}_page"]()
    assert (DOCS / f"{page}.md").read_text() == made, "run: python docs/make.py"


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


@pytest.mark.parametrize("file", ["zs2kit_example.py", "tests/test_example.py"])
def test_the_page_for_authors_shows_the_files_that_are_written(file: str) -> None:
    assert f"```python\n{(TEMPLATE / file).read_text()}```" in (DOCS / "plugins.md").read_text()


def test_the_page_for_authors_shows_the_entry_point() -> None:
    entry = re.search(
        r"^\[project.entry-points.zs2kit\]\n.*\n", (TEMPLATE / "pyproject.toml").read_text(), re.M
    )
    assert f"```toml\n{entry[0]}```" in (DOCS / "plugins.md").read_text()


def test_links_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (DOCS / target).exists(), f"{page.name}: {target}"
        for file in re.findall(r"`(plugins/\w+\.py)`", page.read_text()):
            assert (ROOT / file).exists(), f"{page.name}: {file}"


def test_the_page_on_the_house_names_files_and_names_that_exist() -> None:
    page = (DOCS / "architecture.md").read_text()
    paths = set(re.findall(r"`((?:zs2kit|plugins|tests|docs)/[\w/.]*|pyproject\.toml)`", page))
    assert len(paths) > 40 and [path for path in paths if not (ROOT / path).exists()] == []
    for kind, where in re.findall(r"`([A-Z]\w+)`[^`|]* (?:in|of) `(zs2kit/[\w/]+\.py)`", page):
        assert re.search(rf"^(class )?{kind}\b", (ROOT / where).read_text(), re.M), f"{kind} in {where}"
    modules = {f"zs2kit/{path.name}" for path in (ROOT / "zs2kit").glob("*.py") if path.name[0] != "_"}
    assert modules - paths <= {f"zs2kit/{name}.py" for name in ("beside", "memory", "quiet")}
