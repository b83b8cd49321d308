"""Importing timm without torch's compiler, which is 5 of the 9 seconds that `import timm` takes.

torch marks some functions as not to be compiled when a library like timm first defines an
optimiser, and for that imports torch._dynamo, the compiler. Encoders compile nothing. So while timm
is imported, two empty modules with the two functions that are asked for stand in its place; then
they are taken away, and torch imports the real compiler where something is compiled.

This depends on the inside of torch, and is therefore done only with the version that it was tried
with. If the import fails in spite of that, it is done again as usual. Either way the only loss is
seconds.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

TRIED = ("2.15.",)
"Versions of torch whose compiler may be left out: how their names begin."
COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


def import_without_compiler(name: str) -> ModuleType:
    """The package `name`, imported without torch's compiler where that is known to work."""
    if name in sys.modules or COMPILER in sys.modules or not torch.__version__.startswith(TRIED):
        return import_module(name)
    try:
        with _stand_in():
            return import_module(name)
    except Exception:  # it asks for more of the compiler than is there; a real error comes again
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[module]
        return import_module(name)


@contextmanager
def _stand_in() -> Iterator[None]:
    compiler: Any = ModuleType(COMPILER)
    utils: Any = ModuleType(UTILS)
    compiler.disable = lambda function=None, recursive=True, **_: function
    utils.is_compile_supported = lambda device_type: False
    sys.modules |= {COMPILER: compiler, UTILS: utils}
    try:
        yield
    finally:
        for module in (COMPILER, UTILS):
            if sys.modules.get(module) in (compiler, utils):
                del sys.modules[module]
