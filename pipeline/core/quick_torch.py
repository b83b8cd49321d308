"""Using torch without its compiler, whose import takes longer than that of torch itself.

torch imports torch._dynamo, the compiler, to mark functions that it is not to compile: when an
optimiser is made or steps, when timm is imported, when weights are drawn on the device "meta". This
project compiles nothing. So modules with the functions of the marks stand in the compiler's place,
and the compiler itself is imported as soon as anything else of it is asked for.

This depends on the inside of torch, and is therefore done only with the versions that it was tried
with. Nothing is lost with another version but seconds.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any

TRIED = ("2.15.",)
"Versions of torch whose compiler may be left out: how their names begin."
COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


def leave_out_compiler() -> None:
    """From now on torch's compiler is imported only where something is compiled. Called again, or
    where the compiler is imported already, it does nothing."""
    if COMPILER in sys.modules or not version("torch").startswith(TRIED):
        return
    sys.modules[COMPILER] = _StandIn(COMPILER, disable=_unchanged, graph_break=_nothing)
    sys.modules[UTILS] = _StandIn(UTILS, is_compile_supported=lambda device_type: False)
    sys.meta_path.insert(0, _Parts())


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """The function itself; without one, a decorator."""
    return function or (lambda decorated: decorated)


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _StandIn(ModuleType):
    """A module with what is asked of it where nothing is compiled."""

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
    """`import torch._dynamo.config` asks the stand-in for its path, which imports the compiler and
    with it, as a rule, the part. Python would then execute that part's file a second time."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        there = name.startswith(f"{COMPILER}.") and name in sys.modules
        return ModuleSpec(name, self) if there else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.own = sys.modules[spec.name].__spec__
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own
