"""Type checkers accept what users write: the code of the guides, and typed_use.py."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GUIDES = {"readme": TESTS.parent / "README.md", "own": TESTS.parent / "docs" / "guides" / "own.md"}


@pytest.mark.slow
def test_what_type_checkers_accept_runs():
    runpy.run_path(str(TESTS / "typed_use.py"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the code of the guides, one file for each program."""
    folder = tmp_path_factory.mktemp("typed")
    for name, path in GUIDES.items():
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
        assert blocks
        if name == "own":  # one program
            blocks = ["".join(blocks)]
        for i, block in enumerate(blocks):
            (folder / f"{name}_{i}.py").write_text(block)
    (folder / "use.py").write_text((TESTS / "typed_use.py").read_text())
    return folder


@pytest.mark.slow
def test_pyright_accepts_the_guides(written):
    (written / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "basic"}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=written)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_mypy_accepts_the_guides(written):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", *map(str, sorted(written.glob("*.py")))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
