"""The source of a vision-language model."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.hub import unusable


class Source(NamedTuple):
    """A folder, or a model on the hub."""

    model: str
    "Name on the hub, or a folder."
    revision: str
    "Revision on the hub; empty for the newest."
    is_random: bool
    "Whether the weights are random. The files then need no weights and no tokenizer."

    def read(self, load: Any) -> Any:
        """Return what `load` (a `from_pretrained`) makes of the files.

        Raises:
            UserError: they are missing, unreadable, or available only with a token.
        """
        at = {"revision": self.revision} if self.revision else {}
        try:
            return load(str(Path(self.model).expanduser()), **at)
        except Exception as error:  # transformers, tokenizers, hub and network raise many kinds
            what = f"vlm: '{self.model}'" + (f" at '{self.revision}'" if self.revision else "")
            raise unusable(what, self.model, error) from None

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name, in the folder or on the hub."""
        from transformers.utils.hub import cached_file

        lenient = ("missing_entries", "connection_errors", "gated_repo")
        quiet = {f"_raise_exceptions_for_{what}": False for what in lenient}
        found = self.read(lambda where, **at: cached_file(where, name, **at, **quiet))
        return found is not None
