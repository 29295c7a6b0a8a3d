"""Pages of the site that lie elsewhere in the repository or are made while it is built: hooks of MkDocs."""

from __future__ import annotations

import ast
import functools
import posixpath
import re
from pathlib import Path
from re import Match
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Sub-packages of the reference: what they export, or, where they export nothing, these modules.
REFERENCE: dict[str, tuple[str, ...]] = {
    "layers": ("options.SolveOptions",), "any_map": ("",), "solvers": (), "implicit": (), "certificates": (), "bounds": (),
    "verification": (), "network": (), "deployment": (), "models": ("families", "classifier"), "training": ("losses", "own"),
    "experiments": ("own_training", "results"), "data": (), "attacks": (), "activations": (), "constraints": (),
    "guarantee": (), "operators": (), "maps": (), "lower_bounds": ("witness", "patterns", "slope", "graph_witness"),
    "comparison": ("baselines", "unrolled"), "generalisation": ("pac_bayes", "pac_bayes_tightened", "risk"),
    "interop": (), "checker": (), "numerics": ("verified", "outward", "convolution_norms", "linear_algebra", "norm"),
    "testing": ("tensors",), "errors": ("",),
}  # fmt: skip
_LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


class _Literal(InlineProcessor):
    """What stands as it is."""

    def handleMatch(self, m: Match[str], data: str) -> tuple[str, int, int]:
        return m[0], m.start(0), m.end(0)


class _Formulas(Extension):
    """Formulas in plain text: underscores, and stars in z* and (*, n), are no emphasis."""

    def extendMarkdown(self, md: Markdown) -> None:
        literal = _Literal(r"(?<![\w*\\])[A-Za-z]\u0304?\*(?![\w*])|\(\*,|_")
        md.inlinePatterns.register(literal, "formulas", 65)  # before emphasis


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation names every page of the reference and every example."""
    examples: list[Any] = ["examples/index.md", *(f"examples/{path.stem}.md" for path in examples_found())]
    reference: list[Any] = ["reference/index.md", *(f"reference/{name}.md" for name in REFERENCE)]
    sections = {"Examples": examples, "Reference": reference}
    config.markdown_extensions.append(_Formulas())  # type: ignore[arg-type]
    config.nav = [{title: sections.get(title, value)} for entry in config.nav or [] for title, value in entry.items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that MkDocs does not find in ``docs/``."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in ELSEWHERE.items()}
    made |= {f"reference/{name}.md": reference_page(name, modules) for name, modules in REFERENCE.items()}
    made |= {f"examples/{path.stem}.md": example_page(path) for path in examples_found()}
    made |= {"reference/index.md": reference_index(), "examples/index.md": examples_index(), "gallery.md": gallery()}
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository, as links between pages of the site."""
    source = page.file.src_uri
    elsewhere = next((name for name, made in ELSEWHERE.items() if made == source), None)
    lies_at = elsewhere or posixpath.join("docs", source)
    return _LINK.sub(lambda match: match[1] + _target(match[2], lies_at, source) + match[3], markdown)


def _target(link: str, lies_at: str, source: str) -> str:
    """A relative link from one file of the repository to another, as one between pages; other links as they are."""
    if re.match(r"[a-z]+:", link):
        return link
    file = posixpath.normpath(posixpath.join(posixpath.dirname(lies_at), link))
    if file == "examples":
        file = "docs/examples/index.md"
    page = ELSEWHERE.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
    return link if page is None else posixpath.relpath(page, posixpath.dirname(source) or ".")


def exports(module: str) -> dict[str, str]:
    """The names that a package exports, ``from a import b as b``, and the full names of where they are defined."""
    return {name: _defined(module, name) for name in _exported(module)}


@functools.cache
def _parsed(module: str) -> ast.Module:
    path = SOURCE / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))


@functools.cache
def _exported(module: str) -> dict[str, str]:
    """Names that a module imports for others to import, by ``as`` or by ``__all__``, and where it has them from."""
    nodes = list(ast.walk(_parsed(module)))
    lists = [node.value for node in nodes if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    listed = {part.value for found in lists for part in ast.walk(found) if isinstance(part, ast.Constant)}
    public = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            source = f"{module}.{node.module}" if node.level else node.module
            public |= {part.name: source for part in node.names if part.asname == part.name or part.name in listed}
    functions = [node.name for node in _parsed(module).body if isinstance(node, ast.FunctionDef)]
    return public | {name: "" for name in functions if name in listed}


def _defined(module: str, name: str) -> str:
    source = _exported(module).get(name)
    return _defined(source, name) if source else f"{module}.{name}"


def reference_page(package: str, modules: tuple[str, ...]) -> str:
    """One page of the reference: a package, what it exports, and its public names that it does not export."""
    full, public = f"wellposed.{package}", exports("wellposed")
    lines = [f"# `{full}`", ""]
    if modules != ("",):
        lines += [
            f"::: {full}",
            "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}",
            "",
        ]
        inside = exports(full) | {name: place for name, place in public.items() if place.startswith(f"{full}.")}
        wholes = tuple(f"wellposed.{other}.{module}." for other, parts in REFERENCE.items() for module in parts)
        for place in dict.fromkeys(inside.values()):
            lines += [] if place.startswith(wholes) else [f"::: {place}", ""]
    for module in modules:
        lines += [f"::: {full}{'.' if module else ''}{module}"]
        lines += [
            "    options: {show_root_heading: false}" if not module else "    options: {show_root_full_path: true}",
            "",
        ]
    return "\n".join(lines)


def reference_index() -> str:
    """The table of all public names, each with a link to its place, and of all pages."""
    lines = ["# Reference", "", "```python", "import wellposed as wp", "```", "", "Public names, `wp.NAME`:", ""]
    lines += ["| name | what it is |", "|---|---|"]
    for name, place in sorted(exports("wellposed").items()):
        lines.append(f"| [`{name}`][{place}] | {_summary(place)} |")
    lines += ["", "Sub-packages, `wellposed.NAME`:", "", "| name | what is in it |", "|---|---|"]
    for package in REFERENCE:
        lines.append(f"| [`{package}`]({package}.md) | {_summary(f'wellposed.{package}')} |")
    lines += ["", "`wp.losses` is `wellposed.training.losses`, `wp.families` is `wellposed.models.families`."]
    return "\n".join(lines)


def _summary(place: str) -> str:
    """The first line of the docstring of a module, class or function."""
    is_module = (SOURCE / place.replace(".", "/")).is_dir() or (SOURCE / f"{place.replace('.', '/')}.py").exists()
    module, _, name = (place, "", "") if is_module else place.rpartition(".")
    tree: ast.AST = _parsed(module)
    if name:
        kinds = (ast.ClassDef, ast.FunctionDef)
        tree = next(node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == name)
    words = (ast.get_docstring(tree) or "").split("\n\n")[0]  # type: ignore[arg-type]
    return " ".join(words.replace("``", "`").replace("|", "\\|").split())


def gallery() -> str:
    """Every picture of the other pages, with its words and the page that explains it."""
    lines = ["# Gallery", "", "All pictures of these pages; each links to where it is explained."]
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.relative_to(ROOT / "docs").as_posix()
        text = path.read_text(encoding="utf-8")
        pictures = re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text)
        if pictures and page != "theory.md":
            lines += ["", f"## [{text.splitlines()[0].removeprefix('# ')}]({page})"]
            for words, target in pictures:
                place = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
                lines += ["", f"![{words}]({place})", "", f"{words[:1].upper()}{words[1:]}."]
    return "\n".join(lines)


def examples_found() -> list[Path]:
    """The examples, in the percent format: cells that begin with ``# %%``, the first one with the title."""
    return sorted((ROOT / "examples").glob("[a-z0-9]*.py"))


def example_page(path: Path) -> str:
    """An example as a page: cells of text and cells of code in their order."""
    cells = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = []
    for kind, body in zip(cells[1::2], cells[2::2], strict=True):
        if "[markdown]" in kind:
            lines += [re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip(), ""]
        elif body.strip():
            lines += ["```python", body.strip(), "```", ""]
    return "\n".join([*lines, f"`python examples/{path.name}` runs this page."])


def examples_index() -> str:
    """The list of examples by their titles."""
    lines = [
        "# Examples",
        "",
        "Each example is a Python file in `examples/` that runs as it stands and opens as a notebook",
    ]
    lines += ["in editors that know the percent format.", ""]
    for path in examples_found():
        title = next(line for line in example_page(path).splitlines() if line.startswith("# "))
        lines.append(f"- [{title.removeprefix('# ')}]({path.stem}.md)")
    return "\n".join(lines) if examples_found() else "# Examples\n\nThere are none in this version."
