"""torch's compiler is imported only when something is compiled."""

import subprocess
import sys

import pytest

from tests.workspace import ROOT

pytestmark = pytest.mark.slow

LEFT_OUT = "from pipeline.core import quick_torch\nquick_torch.leave_out_compiler()\n"
THERE = "\nimport sys\nprint('torch._dynamo.convert_frame' in sys.modules)"


def said(code: str) -> str:
    """Run code in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return " ".join(done.stdout.split())


STEP = """
import torch
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.{kind}([weight], 0.5)
weight.sum().backward()
optimizer.step()
"""


META = "with torch.device('meta'):\n    torch.nn.Linear(2, 2)\n"


def test_torch_works_without_its_compiler() -> None:
    code = "import timm\n" + STEP.format(kind="Adam") + STEP.format(kind="SGD") + META
    assert said(LEFT_OUT + code + THERE) == "False"


def test_another_version_of_torch_gets_its_own_compiler() -> None:
    code = LEFT_OUT.replace("quick_torch.leave", "quick_torch.TRIED = ('0.0.',)\nquick_torch.leave")
    assert said(code + STEP.format(kind="SGD") + THERE) == "True"


@pytest.mark.parametrize(
    "code",
    [
        "import torch\nprint(torch._dynamo.is_compiling())",
        "from torch._dynamo import is_compiling\nprint(is_compiling())",
        "import torch\nprint(float(torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1))) != 2)",
    ],
    ids=["attribute", "from", "compile"],
)  # fmt: skip
def test_what_compiles_has_the_compiler(code: str) -> None:
    assert said(LEFT_OUT + code + THERE) == "False True"


def test_to_ask_every_module_for_its_file_imports_no_compiler() -> None:
    """The inspect module does this."""
    code = "import sys, torch\n"
    code += "[hasattr(module, '__file__') for module in list(sys.modules.values())]\n"
    code += "print(type(sys.modules['torch._dynamo']).__name__)"
    assert said(LEFT_OUT + code) == "_StandIn"


def test_the_parts_of_the_compiler_are_executed_once_and_are_its_own() -> None:
    code = "import torch._dynamo.exc\nimport torch._dynamo.convert_frame as user\nimport sys\n"
    code += "from torch._dynamo.utils import istype, is_compile_supported\n"
    code += "part = sys.modules['torch._dynamo.exc']\n"
    code += "print(user.exc is part is torch._dynamo.exc, part.__spec__.origin == part.__file__,"
    code += "istype is torch._dynamo.utils.istype)"
    assert said(LEFT_OUT + code) == "True True True"
