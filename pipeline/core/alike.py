"""Check that two machines have the same environment.

Ray sends this module to its nodes by value, whatever is installed there. It therefore imports
nothing from this project.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from platform import node, python_version

# Packages whose versions a result may depend on.
PACKAGES = (
    *("captionlab", "torch", "torchvision", "transformers", "timm", "numpy", "pillow", "pandas"),
    *("pyarrow", "pycocoevalcap", "dvc"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`; '-' marks a missing package."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "-"
    return found


def difference(head: Mapping[str, str], here: Mapping[str, str] | None = None) -> str:
    """Return how this node's environment differs from that of the head; '' if it does not.

    Args:
        head: the head's `versions`, and anything else that has to be equal.
        here: the same values of this node; by default its `versions`.
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
