"""Settings of params.yaml that are each valid but conflict with each other."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.core.registry import reads
from pipeline.experiment.names import protocol_of
from pipeline.experiment.protocols import find_protocol
from pipeline.languages.languages import ENGLISH, Language, find_language

if TYPE_CHECKING:
    from pipeline.experiment.params import Corpus, Params, Variant


def all_known(params: "Params") -> Iterator[str]:
    """Yield conflicts between settings; every name must be known."""
    for check in (searches, protocols_of_papers, languages, keeps):
        yield from check(params)


def files_of_metrics(params: "Params") -> Iterator[str]:
    """Yield metrics that lack something they need besides captions."""
    metrics = params.scoring.metrics
    if "clip_score" in metrics and not params.scoring.clip:
        yield "scoring.clip: clip_score needs a model, e.g. {model: openai/clip-vit-base-patch32}"
    if "chair" in metrics and not params.scoring.chair:
        yield (
            "scoring.chair: chair needs COCO's synonyms, "
            "e.g. {synonyms: synonyms.txt, instances: []}"
        )


def seeds(params: "Params") -> Iterator[str]:
    """Yield seeds that occur twice: in the top-level `train`, then in rows with their own seeds."""
    own = {f"variants.{name}.": row.train.get("seeds") for name, row in params.variants.items()}
    for where, found in {"": params.train.seeds, **own}.items():
        if found and len(set(found)) < len(found):
            yield f"{where}train.seeds: a seed occurs twice"


def searches(params: "Params") -> Iterator[str]:
    """Yield protocols that score captions which a variant does not make.

    Protocols of `scoring` are reported once for all rows.
    """
    lacking: dict[str, list[str]] = {}
    for variant, row in params.variants.items():
        made = {"own", "argmax", *params.decoding(variant).also}
        for name in params.protocols(variant):
            if find_protocol(name).captions not in made:
                of_all = name in params.scoring.protocols and "also" not in row.decode
                lacking.setdefault("scoring" if of_all else f"variants.{variant}", []).append(name)
    for where, names in lacking.items():
        for name in dict.fromkeys(names):
            search = find_protocol(name).captions
            cure = f"decode: {{also: [{search}]}}"
            yield f"{where}.protocols: {name} needs captions of that search: {cure}"


def protocols_of_papers(params: "Params") -> Iterator[str]:
    """Yield variants that are not scored under the protocol of the paper's row that they name."""
    for name, row in params.variants.items():
        theirs = protocol_of(row.paper.table, row.paper.system) if row.paper else ""
        if theirs and theirs not in ["standard", *params.protocols(name)]:
            yield (
                f"variants.{name}.protocols: the paper's row is scored under {theirs}: name it here"
            )


def languages(params: "Params") -> Iterator[str]:
    """Yield settings that do not suit the language of the captions."""
    for name, corpus in params.corpora.items():
        if corpus.language != ENGLISH:
            told = _not_for(find_language(corpus.language), corpus)
            yield from (f"corpora.{name}.{problem}" for problem in told)
    for name, variant in params.variants.items():
        if params.corpora[variant.corpus].language != ENGLISH:
            yield from _english_only(f"variants.{name}.", variant, params.protocols(name))


def _not_for(language: Language, row: "Corpus") -> Iterator[str]:
    if row.punctuation == "letters":
        yield (
            f"punctuation: letters keeps a-z alone and would empty captions in {language.name}: "
            "write drop"
        )
    if row.one_letter_words == "drop" and not language.spaced:
        yield f"one_letter_words: drop would take words away from {language.name}: write keep"


def _english_only(where: str, variant: "Variant", protocols: list[str]) -> Iterator[str]:
    """Yield settings that suit only English captions.

    The rows of papers.yaml are all of English captions, and the letters a-z are English.
    """
    if variant.paper:
        yield (
            f"{where}paper: the paper's captions are English, those of corpus "
            f"'{variant.corpus}' are not: leave it out"
        )
    for name in protocols:
        if find_protocol(name).tokens == "letters":
            yield f"{where}protocols: {name} keeps a-z alone, and these captions are not English"


def needed(params: "Params", features: str) -> dict[str, str]:
    """Return what each variant's decoder reads of a feature set: variant -> `pooled`, `grid` or
    `both`."""
    rows = params.variants.items()
    return {name: reads(row.decoder) for name, row in rows if row.features == features}


def least(read: Iterable[str]) -> str:
    """Return the smallest `keep` that a feature set needs for these reads."""
    different = set(read)
    return different.pop() if len(different) == 1 else "both"


def keeps(params: "Params") -> Iterator[str]:
    """Yield feature sets that do not keep what a decoder reads."""
    for name, row in params.features.items():
        read = needed(params, name)
        lacking = [v for v, what in read.items() if row.keep not in (what, "both")]
        if lacking:
            what = least(read[v] for v in lacking)
            yield (
                f"features.{name}.keep: {row.keep}, but {what} is read by {', '.join(lacking)}: "
                f"write keep: {least(read.values())}"
            )
