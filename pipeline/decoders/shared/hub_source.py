"""The source of a vision-language model."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.hub import unusable


class Source(NamedTuple):
    """A folder, or a model on the hub."""

    decoder: str
    "Name of the decoder file that reads it, for errors."
    model: str
    "Name on the hub, or a folder."
    revision: str
    "Revision on the hub; empty for the newest."
    is_random: bool
    "Whether the weights are random. The files then need no weights and no tokenizer."

    @classmethod
    def of(cls, decoder: str, args: dict[str, Any]) -> "Source":
        """Return the source that the arguments of a decoder name."""
        is_random = args.get("weights") == "random"
        return cls(decoder, args["model"], args.get("revision", ""), is_random)

    @property
    def has_own_words(self) -> bool:
        """Whether the vocabulary is the captions' words, for lack of a tokenizer."""
        return self.is_random and not self.has("tokenizer.json")

    def read(self, load: Any) -> Any:
        """Return what `load` (a `from_pretrained`) makes of the files.

        Raises:
            UserError: they are missing, unreadable, or available only with a token.
        """
        at = {"revision": self.revision} if self.revision else {}
        try:
            return load(str(Path(self.model).expanduser()), **at)
        except Exception as error:  # transformers, tokenizers, hub and network raise many kinds
            at_revision = f" at '{self.revision}'" if self.revision else ""
            what = f"{self.decoder}: '{self.model}'{at_revision}"
            raise unusable(what, self.model, error) from None

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name, in the folder or on the hub."""
        from transformers.utils.hub import cached_file

        lenient = ("missing_entries", "connection_errors", "gated_repo")
        quiet = {f"_raise_exceptions_for_{what}": False for what in lenient}
        found = self.read(lambda where, **at: cached_file(where, name, **at, **quiet))
        return found is not None
