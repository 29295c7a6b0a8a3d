"""The pages: their commands and code run, the site is built without a broken link, and it can be read in a narrow window."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import torch

import wellposed
import wellposed as wp
from harness.documents import ROOT, blocks, commands, run_page
from harness.mnist_layout import write_images
from test_graphs import small_set as small_set
from wellposed.bounds.collection import bound_methods
from wellposed.cli.main import run
from wellposed.errors import OwnFileWarning

pytestmark = pytest.mark.float32
DOCS = ROOT / "docs"
PAGES = sorted({*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"})
WITH_DATA = ("README.md",)  # elsewhere the same commands are read only, as their data are not there
OWN_TESTS = ("own-data.md",)  # test_own_data_page.py
LARGE = (
    "index.html",
    "layers.html",
    "certificates.html",
    "testing.html",
)  # of the reference: all others are made alike
# How many commands of a page run, rather than being read: what needs published weights, a cluster or hours does not.
RUN = {
    "README.md": 10,
    "tutorial.md": 8,
    "robustness.md": 2,
    "certify-your-own.md": 1,
    "deployed.md": 4,
    "certificates.md": 1,
}


@pytest.fixture
def data(small_set):
    """What ``DATA`` stands for: a folder of data sets: forty graphs called MUTAG, and thirty images in the layout of MNIST."""
    write_images(small_set, {"train": 30, "t10k": 20}, (7, 6))
    return small_set


@pytest.fixture
def forgets_bounds():
    """Bounds that a page registers are forgotten after it."""
    before = bound_methods()
    yield
    for method in set(bound_methods()) - set(before):
        wp.unregister_bound(method)


def given(page):
    """What a page refers to that another one made: names, and files in the current folder."""
    if page.name not in ("certificates.md", "deployed.md"):
        return {}
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), wp.MonDEQ(784, 8), torch.nn.Linear(8, 3)).eval()
    x = torch.rand(6, 1, 28, 28)
    if page.name == "deployed.md":
        wp.save(model, "folder", input_shape=(1, 28, 28))
        shutil.copy("folder/model.onnx", "model.onnx")
    return {"model": model, "x": x, "y": model(x).argmax(1), "torch": torch, "wp": wp, "wellposed": wellposed}


@pytest.mark.filterwarnings(f"ignore::{OwnFileWarning.__module__}.{OwnFileWarning.__name__}")
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OWN_TESTS], ids=lambda page: page.name)
def test_every_block_runs(page, data, tmp_path, monkeypatch, forgets_bounds):
    if not any(language == "python" or commands(text) for language, text in blocks(page)):
        return
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names = given(page)
    done = run_page(page, monkeypatch, names, data if page.name in WITH_DATA else None)
    ran = [line for line, how in done if how == "run"]
    if page.name == "README.md":
        assert (folder / "network" / "card.md").exists() and names["solution"].converged.all()
    assert len(ran) == RUN.get(page.name, 0), "\n".join(f"{how}: {line}" for line, how in done)


def test_every_new_name_of_the_migration_exists():
    page = (DOCS / "migration.md").read_text(encoding="utf-8")
    renamed, moved = ([row.strip("| ").split(" | ") for row in part.splitlines() if row.startswith("| `")]
                      for part in page.split("## Names that moved"))  # fmt: skip
    assert len(renamed) >= 50 and len(moved) >= 25
    new = {name for row in renamed for name in re.findall(r"\b(?:wellposed|wp)\.[\w.]*\w", row[-1])}
    assert len(new) >= 30 and not [name for name in new if not found(name)]
    for old, now in moved:
        assert found(now.strip("`")) and not found(old.strip("`")), old


def found(name):
    """Whether a dotted name leads somewhere: through modules, and from there through attributes."""
    parts = name.replace("wp.", "wellposed.", 1).split(".") if name.startswith("wp.") else name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; building it strictly finds broken links, anchors, and pages that the navigation lacks."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert found.returncode == 0, found.stderr[-3000:]
    return folder


class Links(HTMLParser):
    """What a page names: anchors, links, and what it loads."""

    def __init__(self, page):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.anchors |= {named[key] for key in ("id", "name") if named.get(key)}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag in ("link", "script", "img", "iframe", "source"):
            self.loaded += [named[key] for key in ("src", "href") if named.get(key)]


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 50
    for page, names in pages.items():
        assert not [link for link in names.loaded if re.match(r"(https?:)?//", link)], page
        for link in [*names.links, *names.loaded] if page.name != "404.html" else []:
            address, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (page.parent / address).resolve() if address else page
            assert target.is_file(), f"{page.relative_to(site)}: {link}"
            assert not anchor or target not in pages or anchor in pages[target].anchors, f"{page}: {link}"


def test_formulas_are_not_taken_for_emphasis(site):
    for page in site.rglob("*.html"):
        emphasised = re.findall(r"<em>([^<]*)</em>", page.read_text(encoding="utf-8"))
        assert not [words for words in emphasised if re.search(r"[−‖=_*]|^[,(]", words)], page


def test_the_reference_has_every_public_name(site):
    anchors = set().union(*(Links(page).anchors for page in (site / "reference").glob("*.html")))
    index = (site / "reference" / "index.html").read_text(encoding="utf-8")
    for name in set(wp.__all__) - {"__version__"}:
        value = getattr(wp, name)
        assert f"{value.__module__}.{name}" in anchors, name
        assert f">{name}</code></a>" in index, name


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run."""
    folder = tmp_path_factory.mktemp("run")
    small = ["--preset", "digits", "--epochs", "1", "--width", "6", "--out", str(folder)]
    for command in (["train", "mondeq", *small], ["certify", str(folder)], ["report", str(folder)]):
        assert run(command) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, where there is one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def trouble_in(browser, address):
    """Complaints of a page in a window of 390 pixels, requests that failed, and how far it is wider than the window."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    trouble = []
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("requestfailed", lambda request: trouble.append(request.url))
    page.goto(address.as_uri())
    excess = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    page.close()
    return trouble + ([f"{excess} pixels too wide"] if excess > 0 else [])


def test_pages_in_a_narrow_window(site, browser):
    found = [page for page in site.rglob("*.html") if page.name != "404.html"]  # which a server gives for any address
    pages = [page for page in found if page.parent.name != "reference" or page.name in LARGE]
    assert len(pages) > 30
    trouble = {page.name: trouble_in(browser, page) for page in pages}
    assert not {name: what for name, what in trouble.items() if what}


def test_the_report_in_a_narrow_window(report, browser):
    assert not trouble_in(browser, report)
