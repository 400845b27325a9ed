"""Nothing that is read can run: no code of ours calls what would, and files that try are refused."""

import ast
import json
import os
import pickle
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.data import builders
from jaxdiff.likelihood.record import Record

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("jaxdiff", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "builtins.eval", "builtins.exec"}
CALLS |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "subprocess.getoutput"}
NAMES = {"deserialize_and_load", "serialize_executable", "read_pickle"}  # wherever they come from
NEEDS = {  # call: the keyword it must have, and its value
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
METHODS = {"extract": ("filter", "data"), "extractall": ("filter", "data")}


def keyword(call, name):
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def findings(code):
    """What in a program would run what a file or a string says."""
    tree = ast.parse(code)
    origin = {}  # of the names that imports bind
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origin[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                if alias.name.split(".")[0] in MODULES or alias.name.split(".")[-1] in NAMES:
                    yield f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                origin[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if node.module.split(".")[0] in MODULES or {*node.module.split("."), alias.name} & NAMES:
                    yield f"import {node.module}.{alias.name}"

    def name_of(node):
        if isinstance(node, ast.Attribute):
            return f"{name_of(node.value)}.{node.attr}"
        return origin.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield name_of(node)
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        last = name.split(".")[-1]
        if name in CALLS or name == "jax.export.deserialize":
            yield name
        if name in NEEDS and keyword(node, NEEDS[name][0]) is not NEEDS[name][1]:
            yield f"{name} without {NEEDS[name][0]}={NEEDS[name][1]}"
        if keyword(node, "allow_pickle") is True or keyword(node, "weights_only") is False:
            yield f"{name} of pickles"
        if keyword(node, "shell") or any(
            k.arg == "shell" and not isinstance(k.value, ast.Constant) for k in node.keywords
        ):
            yield f"{name} through a shell"
        if "." in name and last in METHODS and keyword(node, METHODS[last][0]) != METHODS[last][1]:
            yield f"{last} without filter='data'"


def test_the_package_and_its_programs_call_nothing_that_runs_what_it_reads():
    assert len(FILES) > 60
    found = {(str(path.relative_to(ROOT)), what) for path in FILES for what in findings(path.read_text())}
    assert found == set()


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import cloudpickle",
        "import _pickle",
        "def f():\n    import dill",
        "from joblib import load",
        "import shelve",
        "import marshal",
        "import numpy as np\nnp.load(path)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "from numpy import load\nload(path)",
        "import numpy as np\nallowed = False\nnp.load(path, allow_pickle=allowed)",
        "import numpy as np\nnp.lib.format.read_array(f, allow_pickle=True)",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "import os\nos.system(command)",
        "from os import system\nsystem(command)",
        "import os\nos.popen(command)",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "from subprocess import Popen\nPopen(command, shell=flag)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import tarfile\nwith tarfile.open(p) as a:\n    a.extractall(to)",
        "archive.extract(member)",
        "archive.extractall(to, filter='fully_trusted')",
        "tarfile.open(p).extractall(to)",
        "from jax.experimental import serialize_executable",
        "from jax.experimental.serialize_executable import deserialize_and_load",
        "import jax.experimental.serialize_executable as s",
        "import jax\njax.experimental.serialize_executable.serialize(x)",
        "import jax\njax.export.deserialize(content)",
        "from jax import export\nexport.deserialize(content)",
        "from jax.export import deserialize\ndeserialize(content)",
        "import pandas as pd\npd.read_pickle(path)",
    ],
)
def test_the_search_finds(code):
    assert list(findings(code))


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import torch\ntorch.load(path, weights_only=True)\ntorch.compile(f)\nmodel.eval()",
        "import jax\njax.jit(f).lower(x).compile()",
        "import re\nre.compile(text)",
        "import subprocess\nsubprocess.run([a, b])\nsubprocess.run([a], shell=False)",
        "archive.extractall(to, filter='data')\narchive.extractfile(member)",
        "import json\njson.load(file)",
        "import yaml\nyaml.safe_load(text)",
    ],
)
def test_the_search_leaves_alone(code):
    assert list(findings(code)) == []


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def trap(tmp_path):
    """A trap that works, and a check that it was not sprung."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "tried")))
    assert (tmp_path / "tried").exists()
    yield Trap(tmp_path / "sprung")
    assert not (tmp_path / "sprung").exists()


def refused(message, call, *args):
    with pytest.raises(ValueError, match=message) as error:
        call(*args)
    assert "\n" not in str(error.value)


def baits(trap):
    """Files of NumPy's with the trap inside: an archive of object arrays, by each name that is read, and a pickle."""
    boxed = np.array([trap], object)
    yield lambda path: np.savez(path, settings=boxed, example=boxed, labels=boxed, data=boxed)
    yield lambda path: path.write_bytes(pickle.dumps(trap))


@pytest.mark.parametrize("bait", [0, 1], ids=["object arrays", "a pickle"])
def test_a_record_of_likelihoods_that_is_a_trap_is_refused(tmp_path, trap, bait):
    path = tmp_path / "record.npz"
    list(baits(trap))[bait](path)
    refused("record.npz is not a record of likelihoods", Record, path, dict)


@pytest.mark.parametrize("bait", [0, 1], ids=["object arrays", "a pickle"])
def test_an_archive_of_images_that_is_a_trap_is_refused(tmp_path, trap, bait):
    for name in builders.IMAGENET64_FILES:
        list(baits(trap))[bait](tmp_path / name)
    refused("train_data_batch_1.npz is not an archive", jd.data.load_imagenet64, "train", tmp_path, tmp_path / "data")


def test_a_trap_among_the_pixels_is_refused_though_labels_and_size_are_right(tmp_path, trap, monkeypatch):
    splits = {"train": range(0, 9), "validation": range(9, 10), "test": range(10, 11)}
    monkeypatch.setattr(builders.ImageNet64, "SPLITS", splits)
    boxed = np.array([trap, bytes(12_288)], object)
    for name in builders.IMAGENET64_FILES:
        np.savez(tmp_path / name, labels=np.ones(1, int), data=boxed)
    refused(r"_1.npz is not .*\(Object arrays", jd.data.load_imagenet64, "train", tmp_path, tmp_path / "data")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 5) + b'{"a":',
        struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,1600000]}}',
        struct.pack("<Q", 57) + b'{"w":{"dtype":"O64","shape":[4],"data_offsets":[0,16]}}  ' + bytes(16),
        None,
    ],
    ids=["empty", "no length", "too long", "cut", "beyond its end", "objects", "a pickle"],
)
def test_weights_with_a_bad_header_are_refused(tmp_path, trap, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(trap) if content is None else content)
    refused(
        "weights.safetensors is damaged or cut short", jd.pretrained.read_params, path, {"w": jnp.zeros(4, jnp.float32)}
    )


def test_a_config_with_code_in_it_is_refused_or_kept_as_a_string(tmp_path, trap):
    code = f"__import__('os').mkdir({trap.marker!r})"
    path = tmp_path / "config.json"
    for name in ("data", "process", "loss", "network", "parameterization", "dtype"):
        path.write_text(json.dumps({name: code}))
        refused(f"config.json: {name} = .*expected", runs.read_config, tmp_path)
    for name in (code, "__class__"):
        path.write_text(json.dumps({name: code}))
        refused("config.json has settings that this version of jaxdiff does not know", runs.read_config, tmp_path)
    for name, value in (("steps", code), ("condition", [3]), ("seed", 1.5), ("flip", 1), ("process", ["vp"])):
        path.write_text(json.dumps({name: value}))
        refused(f"config.json: {name} = .*expected", runs.read_config, tmp_path)
    for before in ({"channels": code}, {"data": "circles", "hidden": [code]}, {"weighting": code}, {"attention": code}):
        path.write_text(json.dumps(before))
        refused("config.json: .*expected", runs.read_config, tmp_path)
    path.write_text(json.dumps({"data": "fashion_mnist", "image_folder": code}))
    config = runs.read_config(tmp_path)
    assert config.data is not None
    assert config.data.values["folder"] == code
    for content in (code, "!!python/object/apply:os.mkdir [x]", "[]", "3", "null", "[" * 100_000):
        path.write_text(content)
        refused("config.json is not a config of this version", runs.read_config, tmp_path)
    path.write_bytes(pickle.dumps(trap))
    refused("config.json is not a config of this version", runs.read_config, tmp_path)
