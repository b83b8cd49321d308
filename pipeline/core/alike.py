"""Whether two machines have the same environment.

Ray carries this module to its nodes by value, like those that call it, so it imports nothing of
this project.
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


def difference(head: Mapping[str, str]) -> str:
    """What is wrong with this node's environment, '' where it is that of the head.

    Args:
        head: its `versions`.
    """
    here = versions()
    for package, expected in head.items():
        if here.get(package) != expected:
            return (
                f"node {node()} has {package} {here.get(package)}, the head has {expected}: "
                "install requirements/lock.txt on both"
            )
    return ""
