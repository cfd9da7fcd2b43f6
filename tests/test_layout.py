"""The layout: imports go one way, everything public is described, the documented commands exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zs2kit import cli

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("zs2kit", "plugins")
    for path in (ROOT / folder).rglob("*.py")
    if "weights" not in path.parts
)
LAYERS = [
    {"__init__", "errors"},
    {"clip", "hookspecs", "carry", "noise"},
    {"attention", "io", "model", "plugins", "sheet"},
    {"denoiser"},
    {"control", "sampler", "puppets"},
    {"scan"},
    {"cli", "testing", "metrics", "bench"},
    {"__main__"},
]


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of zs2kit that a module imports anywhere, but for TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{each.name}" for each in node.names)
        else:
            yield from imported(node)


def test_imports_go_one_way() -> None:
    layer = {name: height for height, names in enumerate(LAYERS) for name in names}
    for path in (ROOT / "zs2kit").glob("*.py"):
        for name in imported(ast.parse(path.read_text())):
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if package != "zs2kit" or target not in layer:  # a public name, from zs2kit itself
                continue
            assert layer[target] < layer[path.stem], f"{path.stem} imports {target}"


def test_plugins_see_neither_the_orchestrator_nor_one_another() -> None:
    for path in (ROOT / "plugins").glob("*.py"):
        for name in imported(ast.parse(path.read_text())):
            assert not name.startswith(("zs2kit_plugins", "zs2kit.scan", "zs2kit.cli", "zs2kit.edit")), path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_public_is_described(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [node for node in tree.body if not getattr(node, "name", "_").startswith("_")]
    for node in public:
        # Methods too, where the toolkit's own users meet them; those of a subclass are described by its base.
        if isinstance(node, ast.ClassDef) and not node.bases and path.parent.name != "puppets":
            public += [each for each in node.body if not getattr(each, "name", "_").startswith("_")]
        is_hook = "hookimpl" in [ast.unparse(each) for each in node.decorator_list]  # hookspecs does
        assert is_hook or ast.get_docstring(node), f"{path.name}: {node.name}"


def test_documented_commands_and_options_exist() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for call in re.findall(r"zs2kit ((?:edit|plugins)[^`\n]*)", path.read_text()):
            command = cli.main.commands[call.split()[0]]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
            assert {word for word in call.split() if re.match(r"--?[a-z]", word)} <= known, call


def test_documented_python_parses() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for code in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            ast.parse(code)


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    assert (
        len(re.findall(r"^python3 -m venv .venv && .*zs2kit edit --plugin pose samples/.*$", readme, re.M))
        == 1
    )
    assert len(re.findall(r"^\.venv/bin/pip install .* && \.venv/bin/pytest$", readme, re.M)) == 1


def test_versions_are_pinned_by_name_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
