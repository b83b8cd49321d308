"""Check that references are written in the script of their language."""

from pipeline.core.errors import UserError
from pipeline.experiment.protocols import find_protocol
from pipeline.languages.languages import ENGLISH, find_language, in_another_script
from pipeline.metrics.shared.base import References


def check_language(references: References, language: str, protocol: str) -> None:
    """Check that references are in the script of their language.

    English references may be in another script: metrics then say why they cannot tell.

    Raises:
        UserError: most references are in another script than the language's, or the protocol would
            leave nothing of them.
    """
    texts = [text for of_image in references.values() for text in of_image]
    named = find_language(language)
    foreign = [text for text in texts if in_another_script(text, named)]
    if find_protocol(protocol).tokens == "letters" and (foreign or language != ENGLISH):
        raise UserError(
            f"the protocol {protocol} keeps a-z alone, which would empty references in another "
            "script: choose standard"
        )
    if language != ENGLISH and 2 * len(foreign) > len(texts):
        raise UserError(
            f"{len(foreign)} of {len(texts)} references have no {named.letters} letter, and "
            f"{named.name} is written in these (the first: {foreign[0][:40]}): name their language"
        )
