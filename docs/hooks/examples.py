"""Docstrings say `Example:` above a session of Python; mkdocstrings knows `Examples:` alone."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section for the pages."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
