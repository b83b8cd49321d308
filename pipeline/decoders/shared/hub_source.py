"""Where a vision-language model comes from."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.hub import unusable


class Source(NamedTuple):
    """Where a model comes from."""

    model: str
    "a name on the hub, or a folder"
    revision: str
    "of the hub; empty: the newest"
    is_random: bool
    "its files need no weights and no tokenizer"

    def read(self, load: Any) -> Any:
        """What `load` makes of the files (a `from_pretrained`).

        Raises:
            UserError: they are not there, not readable, or not to be had without a token.
        """
        at = {"revision": self.revision} if self.revision else {}
        try:
            return load(str(Path(self.model).expanduser()), **at)
        except Exception as error:  # transformers, tokenizers, the hub and the network: many kinds
            what = f"vlm: '{self.model}'" + (f" at '{self.revision}'" if self.revision else "")
            raise unusable(what, self.model, error) from None

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, in the folder or on the hub."""
        from transformers.utils.hub import cached_file

        lenient = ("missing_entries", "connection_errors", "gated_repo")
        quiet = {f"_raise_exceptions_for_{what}": False for what in lenient}
        found = self.read(lambda where, **at: cached_file(where, name, **at, **quiet))
        return found is not None
