"""Packages that are imported when they are first used."""

import importlib
import types


class LazyModule(types.ModuleType):
    """Stands for a module until that is imported: by the first attribute that is read, set or listed.

    Reading the name of the module itself imports nothing, so that completion of `jd.` by a notebook imports nothing.
    """

    def __getattr__(self, name: str):
        return getattr(importlib.import_module(self.__name__), name)

    def __setattr__(self, name: str, value) -> None:
        setattr(importlib.import_module(self.__name__), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(importlib.import_module(self.__name__), name)

    def __dir__(self):
        return dir(importlib.import_module(self.__name__))

    @property
    def __doc__(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return importlib.import_module(self.__name__).__doc__
