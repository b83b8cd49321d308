"""Whether two machines have the same environment.

Ray carries this module to its nodes by value, whatever is installed there, so it imports nothing
of this project.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from platform import node, python_version

PACKAGES = (
    *("captionlab", "torch", "torchvision", "transformers", "timm", "numpy", "pillow", "pandas"),
    *("pyarrow", "pycocoevalcap", "dvc"),
)
"whose versions a result may depend on"


def versions() -> dict[str, str]:
    """Of Python and `PACKAGES`, '-' where one is missing."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "-"
    return found


def difference(head: Mapping[str, str], here: Mapping[str, str] | None = None) -> str:
    """What is wrong with this node's environment, '' where it is that of the head.

    Args:
        head: its `versions`, and whatever else has to be equal.
        here: the same of this node. By default its `versions`.
    """
    if here is None:
        here = versions()
    for what, expected in head.items():
        if (found := here.get(what, "-")) != expected:
            return (
                f"node {node()} has {what} {found}, the head has {expected}: install the same "
                "version of captionlab and requirements/lock.txt on both"
            )
    return ""
