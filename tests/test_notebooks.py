"""Every notebook runs as it stands, says what its text pair says, and shows what it printed when it ran.

After a change of the text: jupytext --to ipynb --update notebooks/*.py && jupyter execute --inplace notebooks/*.ipynb
"""

import gc
import re
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
from conftest import taken
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

# The library runs in the kernel; what warns in this process is Jupyter's machinery.
pytestmark = pytest.mark.filterwarnings("ignore")

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted({path.stem for path in FOLDER.iterdir() if path.suffix in (".py", ".ipynb")})
MACHINE_PATH = re.compile(r"(?<![\w:/.])/(work|tmp|root|home|Users|usr|opt|var|private|content)\b")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture
def text(name):
    return jupytext.read(FOLDER / f"{name}.py")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def test_the_first_model_is_there():
    assert "first_model" in NAMES


def run(text, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    specs = KernelSpecManager(kernel_dirs=[])  # none but this interpreter's own
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    client = NotebookClient(text, km=kernel, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.owns_km = True  # so that the kernel ends with it
    client.execute()
    assert any("image/png" in output.get("data", {}) for output in outputs(text))
    del client, kernel
    gc.collect()  # sockets close here, under this module's filter


@pytest.mark.slow
def test_notebook_runs(text, tmp_path, monkeypatch):
    run(text, tmp_path, monkeypatch)


def test_what_a_notebook_takes_from_the_library_is_there(notebook):
    """Else it could not run; whether it does, `make test-slow` shows."""
    code = "\n".join(cell.source for cell in code_cells(notebook)).replace("%pip", "pass  #")
    assert None not in taken(code)


def test_notebook_and_text_are_in_sync(notebook, text):
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in text.cells
    ]


def test_the_first_cell_installs_from_the_address_of_the_repository(notebook):
    address = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    assert f'%pip install --quiet "jaxdiff[cli] @ git+{address}"' in code_cells(notebook)[0].source
    assert f"{address.removeprefix('https://github.com/')}/blob/main/notebooks" in notebook.cells[0].source


def test_notebook_was_run_from_top_to_bottom(notebook):
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_notebook_shows_no_error_no_warning_and_no_machine(notebook):
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        shown = [output.get("text", ""), *(v for kind, v in output.get("data", {}).items() if kind != "image/png")]
        for words in map(str, shown):
            assert not MACHINE_PATH.search(words), words
