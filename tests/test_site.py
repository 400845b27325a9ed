"""The site: its navigation, its links, its API pages, and the code of every page."""

import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import types
from pathlib import Path

import pytest
from conftest import taken
from test_docstrings import PACKAGES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path for path in [*sorted(DOCS.rglob("*.md")), ROOT / "CONTRIBUTING.md"]}
SITE = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
FENCE = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The code of the page's ```python fences; a fence of another language is not run."""
    return [textwrap.dedent(code) for _, code in FENCE.findall(PAGES[page].read_text())]


LONG = {"CONTRIBUTING.md", "docs/first_model.md", "docs/likelihoods.md", "docs/samplers.md"}
LONG |= {
    f"docs/guides/{name}.md" for name in ("coming_from", "conditional", "discrete", "inverse", "joint", "own", "table")
}


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page in LONG)) for page in PAGES if blocks(page)]
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    for number, code in enumerate(blocks(page), 1):
        exec(compile(code, f"{page}, block {number}", "exec"), module.__dict__)
    for name in [name for name in vars(module) if name.startswith("test_")]:  # those of the skeletons
        getattr(module, name)()


@pytest.mark.parametrize("page", sorted(LONG))
def test_what_a_long_page_takes_from_the_library_is_there(page):
    """Else it could not run; whether it does, `make test-slow` shows."""
    assert None not in [value for code in blocks(page) for value in taken(code)]


def nav_pages(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav_pages(value) if isinstance(value, list) else [value]


def test_every_page_stands_in_the_navigation_once():
    assert sorted(nav_pages(SITE["nav"])) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def directives():
    """The names that the API pages document, in their order."""
    text = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    return re.findall(r"^::: (\S+)", text, re.MULTILINE)


def resolved(name):
    """The object of a dotted name."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:split]))
            for part in parts[split:]:
                value = getattr(value, part)
            return value
        except (ImportError, AttributeError):
            continue
    raise AssertionError(f"{name} is not there")


def full_name(value):
    return f"{value.__module__}.{value.__qualname__}"


def test_every_public_name_stands_on_an_api_page_once():
    there = [full_name(resolved(name)) for name in directives()]
    public = set()
    for package in map(importlib.import_module, PACKAGES):
        values = [getattr(package, name) for name in package.__all__]
        found = [value for value in values if inspect.isclass(value) or inspect.isfunction(value)]
        public |= {full_name(value) for value in found if value.__module__.startswith("jaxdiff.")}
    assert not public - {*there}
    assert len(there) == len({*there}), {name for name in there if there.count(name) > 1}


def anchors(path):
    """The anchors of a page's headings, as Python-Markdown names them, and those that it sets itself."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    own = re.findall(r"{#([\w.-]+)}|id=\"([\w.-]+)\"", text)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
    slugs = [re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings]
    return {*slugs, *(name for pair in own for name in pair), *directives()}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"^( *)```.*?^\1```|`[^`\n]*`", "", PAGES[page].read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for link in (link for pair in links for link in pair if link and not re.match(r"\w+:", link)):
        name, _, anchor = link.partition("#")
        target = PAGES[page].parent / name if name else PAGES[page]
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), link


def test_formulas_and_fonts_come_with_the_site():
    for name in [*SITE["extra_css"], *SITE["extra_javascript"]]:
        assert (DOCS / name).exists()
    style = (DOCS / "assets/katex/katex.min.css").read_text()
    fonts = re.findall(r"url\(([^)]*)\)", style)
    assert fonts
    assert all((DOCS / "assets/katex" / font).exists() for font in fonts)
    assert SITE["theme"]["font"] is False


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="needs the extra docs")
def test_the_site_is_built_without_warnings(tmp_path):
    for name in ("docs", "jaxdiff"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("zensical.toml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    build = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(build, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("griffe|warning", done.stdout + done.stderr, re.IGNORECASE), done.stdout + done.stderr
    assert (tmp_path / "site/index.html").exists()
