"""Words: objects written as calls, such as `edm(sigma_max=160)`, parsed and written.

    word        ddim                               a call without arguments
    call        heun(churn=40)                     positional arguments fill the fields in order
    argument    a word, a call, a number, inf, a 'string', True, False, None, or a tuple of arguments

The annotation of a field decides what a word means there: `edm` is a weighting in a field for a weighting, and a
process in a field for a process. Whole numbers become floats if the annotation is float. Text is parsed by `ast` and
never evaluated: there are no attributes, operators, subscripts, comprehensions or Python builtins.

A `Recipe` is a function or class with some of its arguments, for an object that needs more of them from a run: a
network before the shape of the data is known, or guidance before there is a model.
"""

from jaxdiff.words.recipe import REQUIRED, Recipe
from jaxdiff.words.tables import Parameter, Table, Vocabulary

__all__ = ["REQUIRED", "Parameter", "Recipe", "Table", "Vocabulary"]


def __dir__():
    return __all__
