"""Every public name has an example, and the examples run."""

import doctest
import importlib
import inspect

import pytest
from conftest import few_names

PACKAGES = [  # that have names of their own
    "jaxdiff",
    "jaxdiff.data",
    "jaxdiff.denoisers",
    "jaxdiff.denoisers.exact",
    "jaxdiff.denoisers.guidance",
    "jaxdiff.likelihood",
    "jaxdiff.losses",
    "jaxdiff.metrics",
    "jaxdiff.networks",
    "jaxdiff.plotting",
    "jaxdiff.pretrained",
    "jaxdiff.processes",
    "jaxdiff.runs",
    "jaxdiff.samplers",
    "jaxdiff.training",
    "jaxdiff.words",
]
DONE = (  # the packages in which every public name has its example
    "arrays",
    "config",
    "data",
    "denoisers",
    "likelihood",
    "losses",
    "metrics",
    "networks",
    "plotting",
    "pretrained",
    "processes",
    "runs",
    "samplers",
    "training",
    "vocabulary",
    "words",
)


def classes(module):
    """The public classes that a module such as jaxdiff.schedules defines."""
    own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return [value for value in own if not value.__name__.startswith("_")]


def public():
    """{full name: object} of the public classes and functions, under the modules that define them."""
    found = {}
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            named = getattr(package, name)
            for value in classes(named) if inspect.ismodule(named) else [named]:
                if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("jaxdiff."):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return {name: value for name, value in sorted(found.items()) if name.split(".")[1] in DONE}


PUBLIC = public()


def examples(name):
    """The docstring's example as one test, with nothing but builtins at its start."""
    return doctest.DocTestParser().get_doctest(inspect.getdoc(PUBLIC[name]) or "", {}, name, None, 0)


def test_every_public_name_has_an_example():
    assert not [name for name in PUBLIC if not examples(name).examples]


# Packages whose examples mostly compile whole programs; what they show has tests beside them.
LONG = ("likelihood", "losses", "networks", "runs", "samplers", "training")


@pytest.mark.parametrize("name", few_names(PUBLIC, *(name for name in PUBLIC if name.split(".")[1] not in LONG)))
def test_the_example_of_a_public_name_runs(name):
    said = []
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    doctest.DocTestRunner(optionflags=flags).run(examples(name), out=said.append)
    assert not said, "".join(said)
