"""Use torch without its compiler, which takes longer to import than torch itself.

torch imports torch._dynamo, the compiler, to mark functions that must not be compiled. It does so
when an optimiser is created or steps, when timm is imported, and when weights are drawn on the
device "meta". This project compiles nothing. Modules that hold only the marking functions therefore
stand in for the compiler. The compiler itself is imported as soon as anything else in it is
requested.

This relies on torch's internals, so it is done only for versions it was tried with. With any other
version, only a few seconds are lost.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any

# Prefixes of the torch versions whose compiler may be left out.
TRIED = ("2.15.",)
COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


def leave_out_compiler() -> None:
    """Import torch's compiler from now on only if something is compiled.

    This does nothing if it was called before, if the compiler is already imported, or if the
    version of torch is not in `TRIED`.
    """
    if COMPILER in sys.modules or not version("torch").startswith(TRIED):
        return
    sys.modules[COMPILER] = _StandIn(COMPILER, disable=_unchanged, graph_break=_nothing)
    sys.modules[UTILS] = _StandIn(UTILS, is_compile_supported=lambda device_type: False)
    sys.meta_path.insert(0, _Parts())


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Return the function itself; without one, return a decorator that does so."""
    return function or (lambda decorated: decorated)


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _StandIn(ModuleType):
    """A module with only the functions that are needed while nothing is compiled. Any other name
    loads the real module."""

    def __init__(self, name: str, **functions: Callable[..., Any]):
        super().__init__(name)
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        inner = name.startswith("__")  # inspect asks every module for __file__
        if inner and (self.__name__, name) != (COMPILER, "__path__"):
            raise AttributeError(name)
        for module in (COMPILER, UTILS):
            if isinstance(sys.modules.get(module), _StandIn):
                del sys.modules[module]
        return getattr(import_module(self.__name__), name)


class _Parts(MetaPathFinder, Loader):
    """Find parts of the compiler that are already imported.

    `import torch._dynamo.config` asks the stand-in for its path. That imports the compiler and, as
    a rule, the part itself. Python would then execute the part's file a second time.
    """

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        there = name.startswith(f"{COMPILER}.") and name in sys.modules
        return ModuleSpec(name, self) if there else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.own = sys.modules[spec.name].__spec__
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own
