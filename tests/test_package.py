"""What tools see of the package: names, completion, optional packages."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdiff as jd
from jaxdiff import __main__
from jaxdiff.arrays.lazy import LazyModule


def run(code):
    """The output of `code` in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dir_lists_the_public_names_alone():
    names = [name for _, name, package in pkgutil.walk_packages(jd.__path__, "jaxdiff.") if package]
    modules = [module for name in names if hasattr(module := importlib.import_module(name), "__all__")]
    assert len(modules) >= 14
    for module in (jd, *modules):
        assert dir(module) == sorted(module.__all__), module
        for name in dir(module):
            assert hasattr(module, name), (module, name)


def test_completion_lists_lazy_modules_and_imports_none():
    out = run("""
import sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
completer = InteractiveShell.instance().Completer
completer.shell.run_cell("import jaxdiff as jd")
completer.jedi_compute_type_timeout = 10**6
def complete(text):
    with provisionalcompleter():
        return {found.text: found.type for found in completer.completions(text, len(text))}
assert complete("jd.")["networks"] == "module"
heavy = ("flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "jaxdiff.data", "jaxdiff.networks")
assert not [name for name in heavy if name in sys.modules]
assert "two_moons" in complete("jd.data.")
assert "UNet" in complete("jd.networks.")
print("complete")
""")
    assert out.endswith("complete\n")


def test_the_word_of_a_data_set_leads_to_its_function():
    with pytest.raises(AttributeError, match="no attribute 'digits'; did you mean load_digits"):
        jd.data.digits  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'zebra'$"):
        jd.data.zebra  # noqa: B018


def test_what_is_done_to_a_lazy_module_is_done_to_the_module():
    module = importlib.import_module("jaxdiff.metrics")
    lazy = LazyModule("jaxdiff.metrics")
    assert lazy.__doc__ == module.__doc__
    assert lazy.wasserstein is module.wasserstein
    lazy.of_this_test = len
    assert module.of_this_test is len
    del lazy.of_this_test
    assert not hasattr(module, "of_this_test")


def test_without_an_extra_an_error_names_it():
    out = run("""
import sys
for name in ("flax", "optax", "orbax", "grain", "tensorflow_datasets", "sklearn", "PIL", "tqdm", "matplotlib", "tyro",
             "ot"):
    sys.modules[name] = None
import numpy as np, jaxdiff as jd
points = np.zeros((3, 2))
def direct():
    from jaxdiff.networks import MLP
for extra, call in (
    ("train", lambda: jd.networks.MLP),
    ("train", direct),
    ("train", lambda: jd.training.train),
    ("train", lambda: jd.runs.train),
    ("train", lambda: jd.pretrained.read_params),
    ("train", lambda: jd.data.load_digits("train")),
    ("train", lambda: jd.data.ImageFolder("pictures")),
    ("train", lambda: jd.data.batches({"x": points}, 1, 0)),
    ("cli", lambda: jd.plotting.lines),
    ("transport", lambda: jd.metrics.wasserstein(points, points, solver=jd.metrics.network_simplex)),
):
    try:
        call()
    except ImportError as error:
        assert f"is not installed; pip install 'jaxdiff[{extra}]'" in str(error), (extra, error)
    else:
        raise AssertionError(extra)
""")
    assert out == ""


def test_the_command_names_the_extra_that_it_lacks(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.setattr(sys, "argv", ["jaxdiff", "train", "runs/mine"])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "jaxdiff: tyro is not installed; pip install 'jaxdiff[cli]'\n"


def test_the_command_says_its_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxdiff", "--version"])
    __main__.main()
    assert capsys.readouterr().out == f"jaxdiff {jd.__version__}\n"


def test_the_citation_has_the_version():
    citation = Path(__file__).parents[1] / "CITATION.cff"
    assert f"\nversion: {jd.__version__}\n" in citation.read_text()
