"""The rules of docs/design.md that imports can show."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import few_names

import jaxdiff

PACKAGE = Path(jaxdiff.__file__).parent
LAYERS = [
    "arrays",
    "processes",
    "denoisers",
    "losses",
    "samplers",
    "likelihood",
    "networks",
    "data",
    "metrics",
]
LAYERS += ["training", "plotting", "pretrained", "words", "vocabulary", "config", "runs", "options", "cli", "__main__"]
ROOMS = {
    "flax": {"networks", "training"},
    "diffrax": {"samplers", "likelihood", "vocabulary"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "sklearn": {"data"},
    "matplotlib": {"plotting"},
    "orbax": {"training"},
    "safetensors": {"pretrained"},
    "tokenizers": {"pretrained", "data"},
    "tyro": {"options", "cli"},
    "ot": {"metrics"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path):
    return ast.parse(path.read_text())


@functools.cache
def imports(path):
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_every_file_has_a_layer_and_every_layer_has_files():
    assert {layer_of(path) for path in FILES} == {*LAYERS, "__init__"}


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py" or p.parent != PACKAGE], ids=str)
def test_imports_come_from_the_layers_above(path):
    own = LAYERS.index(layer_of(path))
    for name in imports(path):
        package, *rest = name.split(".")
        if package == "jaxdiff" and rest and rest[0] in LAYERS:
            assert LAYERS.index(rest[0]) <= own, f"{path} imports {name} from a layer below its own"
        if package in ROOMS:
            assert layer_of(path) in ROOMS[package], f"{path} imports {package}, which lives in {ROOMS[package]}"


def imported(layer, other):
    """The names that files of `layer` import from `other`."""
    files = [path for path in FILES if layer_of(path) == layer]
    names = {name for path in files for name in imports(path) if f"{name}.".startswith(f"jaxdiff.{other}.")}
    modules = {name for name in names if (PACKAGE.parent / Path(*name.split("."))).with_suffix(".py").exists()}
    return {name.rpartition(".")[2] for name in names - modules} - {other}


def test_likelihoods_take_from_the_samplers_only_what_solves():
    solves = {"ProbabilityFlow", "check_flow", "encode", "decode", "forward_mode_named"}
    assert imported("likelihood", "samplers") == solves


def test_words_know_nothing_of_the_library():
    files = [path for path in FILES if layer_of(path) == "words"]
    names = {name for path in files for name in imports(path) if name.startswith("jaxdiff.")}
    assert {name.split(".")[1] for name in names} == {"arrays", "words"}


def test_training_takes_nothing_from_samplers_or_likelihoods():
    assert not imported("training", "samplers") | imported("training", "likelihood")


def test_the_ground_floor_alone_hashes_replaces_files_and_splits_arrays():
    """There is one hash, one writer and one mesh."""
    for path in FILES:
        if layer_of(path) == "arrays":
            continue
        names, code = set(imports(path)), path.read_text()
        assert "hashlib" not in names, path
        assert "os.replace(" not in code, path
        assert "tempfile" not in names, path
        assert "jax.sharding.NamedSharding" not in names, path
        assert "jax.vmap(jax.random.fold_in, (0, None))" not in code, path


def of_docstrings(path):
    """How many lines of a file are docstrings."""
    holders = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    first = [node.body[0] for node in holders if ast.get_docstring(node) is not None]
    return sum(node.end_lineno - node.lineno + 1 for node in first)


def test_no_file_holds_two_things():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) - of_docstrings(path) <= 400, path
        assert path.stem not in ("utils", "util", "helpers", "misc", "common")


def test_every_public_name_is_there():
    for name in jaxdiff.__all__:
        assert getattr(jaxdiff, name) is not None


def test_import_is_light():
    """Heavy parts load when they are used."""
    heavy = ["flax", "diffrax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "sklearn", "tyro", "optax"]
    code = f"import sys, jaxdiff; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


CORE = """
import sys
for name in ("tyro", "matplotlib", "tensorflow_datasets", "grain", "sklearn", "orbax", "tqdm", "optax", "PIL", "flax",
             "safetensors", "importlib_resources"):
    sys.modules[name] = None
import jax, jax.numpy as jnp, numpy as np, jaxdiff as jd
denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(2), np.eye(2))
"""
USES = {
    "samples, losses and networks": """
x = jd.sample(jax.random.key(0), denoiser, (3, 2), steps=4)
jd.losses.Denoising()(jd.Denoiser(lambda p, x, c, y: x, None, jd.VP()), jax.random.key(1), x)
del sys.modules["flax"]
for name in ("orbax", "optax", "tqdm", "importlib_resources", "PIL"):
    sys.modules.pop(name)  # flax imports some of them
from jaxdiff.networks import MLP, initialize
network, params = initialize(jax.random.key(4), lambda rngs: MLP(2, rngs=rngs))
assert network(params, x, 0.0).shape == x.shape
""",
    "likelihoods": """
x = np.ones((3, 2), np.float32)
assert jd.log_likelihood(jax.random.key(2), denoiser, x, trace=jd.likelihood.Exact()).converged.all()
images = np.zeros((2, 2), np.uint8)
assert jd.bits_per_dim(jax.random.key(3), denoiser, images, batch_size=2, budget=0).not_converged == 0
""",
}


@pytest.mark.parametrize("use", few_names(USES, "samples, losses and networks"))
def test_the_core_works_without_the_packages_of_the_extras(use):
    done = subprocess.run([sys.executable, "-c", CORE + USES[use]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_is_pickled():
    for path in FILES:
        names = set(imports(path))
        assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, path
        assert "allow_pickle=True" not in path.read_text(), path


def test_pytrees_know_their_class():
    """`jaxdiff.arrays.pytree` says why they are not registered by JAX itself."""
    for path in FILES:
        names = {value for node in ast.walk(tree(path)) for value in vars(node).values() if isinstance(value, str)}
        assert "register_dataclass" not in names, path


PROCESSES = {
    name
    for name, value in vars(jaxdiff.processes).items()
    if isinstance(value, type) and issubclass(value, jaxdiff.processes.Process)
} | {"Curves", "power"}


def questions(tree):
    """Where code asks which process it has: by `isinstance`, by `type(...) is`, or by its power."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            yield from (name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name))
        elif isinstance(node, ast.Compare):
            yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
            yield from (name.attr for name in ast.walk(node) if isinstance(name, ast.Attribute))


ABOVE = [path for path in FILES if layer_of(path) in ("samplers", "losses", "likelihood")]


@pytest.mark.parametrize("path", ABOVE, ids=str)
def test_no_sampler_loss_or_likelihood_asks_which_process_it_has(path):
    assert not PROCESSES & {*questions(tree(path))}


@pytest.mark.parametrize("code", ["isinstance(p, Gaussian)", "type(p) is Absorbing", "process.power == 2"])
def test_such_questions_are_found(code):
    assert PROCESSES & {*questions(ast.parse(code))}
