"""Words with numbers: objects written as calls, such as `edm(sigma_max=160)`, read and written.

    word        ddim                               a call without arguments
    call        heun(churn=40)                     positional arguments fill the fields in order
    argument    a word, a call, a number, inf, a 'string', True, False, None, or a tuple of arguments

The annotation of a field decides what a word means there: under a field for a weighting `edm` is a weighting, under one
for a process a process. Whole numbers become floats where the annotation says float. Text is read by `ast` and nothing
in it is evaluated: there are no attributes, operators, subscripts, comprehensions or names of Python's own.

A `Recipe` is a function of the library with some of its arguments, for what cannot be made before a run supplies the
others: a network before the data's shape is known, or guidance before there is a model.
"""

from jaxdiff.words.recipe import REQUIRED, Recipe
from jaxdiff.words.tables import Parameter, Table, Vocabulary

__all__ = ["REQUIRED", "Parameter", "Recipe", "Table", "Vocabulary"]


def __dir__():
    return __all__
