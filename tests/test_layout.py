"""The layout: imports go one way, everything public is described, the documented commands exist."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import zs2kit
from zs2kit import cli
from zs2kit.errors import UsageError

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SOURCES = sorted(
    path
    for folder in ("zs2kit", "plugins")
    for path in (ROOT / folder).rglob("*.py")
    if not {"weights", "template"} & set(path.parts)
)
LAYERS = [
    {"zs2kit", "errors"},
    {"encoding"},
    {
        "ahead",
        "beside",
        "clip",
        "domain",
        "dwpose",
        "files",
        "flow",
        "memory",
        "noise",
        "progress",
        "quiet",
        "settings",
        "vae",
    },
    {"carry"},
    {"journal", "schedule"},
    {"attention", "io", "sheet"},
    {"launches", "networks.base", "networks.families"},
    {"networks", "shots", "timelines"},
    {"model"},
    {"companion", "denoiser", "detectors", "guidance", "metrics", "motion"},
    {"between"},
    {"filling"},
    {"hookspecs", "returns", "sampler"},
    {"plugins"},
    {"control", "puppets", "scan"},
    {"people"},
    {"editing", "zs2kit_plugins"},
    {"farm"},
    {"filters"},
    {"plan", "puppets.prompted", "report", "tiny_transformers", "verify"},
    {"web"},
    {"cli", "testing", "puppets.evaluate"},
    {"bench", "__main__"},
]
HEIGHT = {
    name if name.startswith("zs2kit") else f"zs2kit.{name}": height
    for height, names in enumerate(LAYERS)
    for name in names
}


def module_of(path: Path) -> str:
    """The name by which a file is imported."""
    *folders, name = path.relative_to(ROOT).with_suffix("").parts
    if folders[0] == "plugins":
        folders[0] = "zs2kit_plugins"
    return ".".join(folders if name == "__init__" else [*folders, name])


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """What a module in ``package`` imports, for types alone too; public names as those of their modules."""
    for node in ast.iter_child_nodes(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{source}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "zs2kit":
            names = [f"zs2kit.{node.attr}"]
        for name in names:
            first, _, public = name.partition(".")
            yield zs2kit._PUBLIC.get(public, name) if first == "zs2kit" else name
        yield from imported(node, package)


def part(name: str) -> str | None:
    """What of LAYERS a name belongs to, the innermost; None for those of other libraries."""
    while name not in HEIGHT and "." in name:
        name = name.rpartition(".")[0]
    return name if name in HEIGHT else None


def upward(module: str, package: str, code: str) -> list[str]:
    """The imports of a module that don't lead to a lower layer, nor to its own part."""
    own = part(module)
    assert own is not None and (own != "zs2kit" or module == own), f"{module} has no layer"
    targets = [(part(name), name) for name in imported(ast.parse(code), package)]
    return [name for target, name in targets if target not in (None, own) and HEIGHT[target] >= HEIGHT[own]]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    module = module_of(path)
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    code = path.read_text()
    if module == "zs2kit":  # which only tells where its names come from
        code = re.sub(r"^if TYPE_CHECKING:\n(    .*\n)+", "", code, flags=re.M)
    assert upward(module, package, code) == []


@pytest.mark.parametrize(
    ("module", "code", "found"),
    [
        ("zs2kit.io", "import zs2kit.scan", ["zs2kit.scan"]),
        ("zs2kit.io", "from zs2kit import cli, errors", ["zs2kit.cli"]),
        ("zs2kit.io", "from zs2kit.scan import edit", ["zs2kit.scan.edit"]),
        ("zs2kit.io", "from .scan import edit", ["zs2kit.scan.edit"]),
        ("zs2kit.io", "from . import model", ["zs2kit.model"]),
        ("zs2kit.model", "from zs2kit import edit, Frame", ["zs2kit.editing"]),
        ("zs2kit.control", "def f():\n    import zs2kit\n    zs2kit.edit()", ["zs2kit.editing"]),
        ("zs2kit.puppets.world", "from ..scan import edit", ["zs2kit.scan.edit"]),
        ("zs2kit.puppets.world", "from .evaluate import psnr", ["zs2kit.puppets.evaluate.psnr"]),
        ("zs2kit.puppets.world", "from .canvas import Canvas\nimport numpy", []),
        ("zs2kit.puppets.evaluate", "from ..bench import overhead", ["zs2kit.bench.overhead"]),
        ("zs2kit.puppets.evaluate", "import zs2kit\nimport zs2kit_plugins.pose\nzs2kit.edit()", []),
        ("zs2kit_plugins.pose", "from zs2kit import edit", ["zs2kit.editing"]),
        ("zs2kit.scan", "from zs2kit_plugins.pose import Pose", ["zs2kit_plugins.pose.Pose"]),
        ("zs2kit.scan", "if TYPE_CHECKING:\n    from zs2kit.cli import main", ["zs2kit.cli.main"]),
    ],
)
def test_an_import_the_other_way_is_seen(module: str, code: str, found: list[str]) -> None:
    assert upward(module, module.rpartition(".")[0], code) == found


def test_plugins_see_neither_the_orchestrator_nor_one_another() -> None:
    for path in (ROOT / "plugins").rglob("*.py"):
        for name in imported(ast.parse(path.read_text()), "zs2kit_plugins"):
            above = {"zs2kit_plugins", "zs2kit.editing", "zs2kit.scan", "zs2kit.cli"}
            assert part(name) not in above, path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_public_is_described(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [node for node in tree.body if not getattr(node, "name", "_").startswith("_")]
    for node in public:
        # Methods too, where the toolkit's own users meet them; those of a subclass are described by its base.
        if isinstance(node, ast.ClassDef) and not node.bases and path.parent.name != "puppets":
            public += [each for each in node.body if not getattr(each, "name", "_").startswith("_")]
        marks = {ast.unparse(each) for each in getattr(node, "decorator_list", ())}
        elsewhere = marks & {"hookimpl", "overload"}  # in hookspecs, and in the function itself
        assert elsewhere or ast.get_docstring(node), f"{path.name}: {node.name}"


def flags(code: str) -> list[str]:
    """The texts in a module that word an option as the command line has it."""
    texts = [each.value for each in ast.walk(ast.parse(code)) if isinstance(each, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and re.search(r"(^|\W)--[a-z]", text)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_command_line_words_flags(path: Path) -> None:
    """The library writes `overwrite=True`, for scripts as well; `zs2kit.cli` makes --overwrite of it.

    What hub.py words are the flags of another command, hf.
    """
    commands = {ROOT / "zs2kit" / each for each in ("cli", "bench", "puppets", "networks/hub.py")}
    assert commands & {path, *path.parents} or flags(path.read_text()) == []


def test_a_flag_in_a_text_is_seen() -> None:
    assert flags('raise ClipError("a exists", f"allow it: --overwrite {b}")') == ["allow it: --overwrite "]
    assert flags('"""Use --set pose.scale=1."""') and not flags('"a -- b, a-b, `overwrite=True`"')


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The pages' blocks of code in a language, each after its page's name."""
    for path in PAGES:
        for code in re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            yield path.name, code


def calls(code: str) -> Iterator[list[str]]:
    """The commands of a block of shell code, each as its words."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|")
        lexer.whitespace_split, lexer.commenters = True, "#"
        command: list[str] = []
        for word in [*lexer, ";"]:
            if re.fullmatch(r"[();&|]+", word):
                if command and command != ["$"]:
                    yield command
                command = []
            elif word != "$" and not re.fullmatch(r"\w+=\$?", word):
                command.append(word)


def parse(words: list[str]) -> None:
    """Raise click's error, or `UsageError`, if zs2kit can't be called so."""
    context = cli.main.make_context("zs2kit", list(words))
    while isinstance(context.command, click.Group) and context._protected_args:
        name, command, rest = context.command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, rest, parent=context)


REPORT = """{"settings": {"prompt": "", "size": null, "cuts": "auto"}, "plugins": [],
"model": {"name": "puppets", "config": null, "loras": {}, "embeddings": [], "device": null, "dtype": null}}"""


def test_documented_commands_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"look.toml": "", "clip.json": REPORT}.items():  # which are read while parsing
        (tmp_path / name).write_text(text)
    count = 0
    for page, code in blocks("sh"):
        for words in calls(code):
            program, *rest = words
            try:
                if Path(program).name == "zs2kit":
                    count += 1
                    parse(rest)
                if program == "python" and rest[0] != "-m":
                    assert (ROOT / rest[0]).exists()
            except click.exceptions.Exit:  # --help
                pass
            except Exception as error:
                raise AssertionError(f"{page}: {' '.join(words)}: {error}") from error
    assert count > 40


@pytest.mark.parametrize(
    "line", ["zs2kit edit --quite clip.mp4", "zs2kit edit", "a && zs2kit edit c.mp4 --steps 0", "zs2kit x"]
)
def test_a_command_that_is_wrong_is_seen(line: str) -> None:
    with pytest.raises((click.UsageError, UsageError)):
        for program, *rest in calls(line):
            if program == "zs2kit":
                parse(rest)


def test_options_in_documented_sentences_exist() -> None:
    for path in PAGES:
        commands = r"zs2kit ((?:edit|filters?|generate|metrics|plan|plugins|verify|web)(?!\w)[^`\n]*)"
        for call in re.findall(commands, path.read_text()):
            command = cli.main.commands[re.split(r"\W", call)[0]]
            if re.match(r"(plugins|filters) new", call):
                command = cli.plugins.commands["new"]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
            assert {word for word in call.split() if re.match(r"--?[a-z]", word)} <= known, call


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return set(runpy.run_path(str(ROOT / "docs" / "make.py"))["anchors"](headings))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_index_and_the_readme_link_to_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    index = (ROOT / "docs" / "index.md").read_text()
    readme = (ROOT / "README.md").read_text()
    assert {target for target in pages if f"]({target}" in index} == pages - {"index.md"}
    assert {target for target in pages if f"](docs/{target}" in readme} == pages


def test_documented_python_parses() -> None:
    for _, code in blocks("python"):
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
