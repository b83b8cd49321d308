"""Settings of params.yaml that do not go together, each right in itself."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.core.registry import reads
from pipeline.experiment.names import protocol_of
from pipeline.experiment.protocols import find_protocol
from pipeline.languages.languages import ENGLISH, Language, find_language

if TYPE_CHECKING:
    from pipeline.experiment.params import Corpus, Params, Variant


def all_known(params: "Params") -> Iterator[str]:
    """What does not go together where every name is known."""
    for check in (searches, protocols_of_papers, languages, keeps):
        yield from check(params)


def files_of_metrics(params: "Params") -> Iterator[str]:
    """Metrics that lack what they need beside captions."""
    metrics = params.scoring.metrics
    if "clip_score" in metrics and not params.scoring.clip:
        yield "scoring.clip: clip_score needs a model, e.g. {model: openai/clip-vit-base-patch32}"
    if "chair" in metrics and not params.scoring.chair:
        yield (
            "scoring.chair: chair needs COCO's synonyms, "
            "e.g. {synonyms: synonyms.txt, instances: []}"
        )


def seeds(params: "Params") -> Iterator[str]:
    """Seeds that stand there twice: of the top-level `train`, then of rows with their own."""
    own = {f"variants.{name}.": row.train.get("seeds") for name, row in params.variants.items()}
    for where, found in {"": params.train.seeds, **own}.items():
        if found and len(set(found)) < len(found):
            yield f"{where}train.seeds: a seed stands there twice"


def searches(params: "Params") -> Iterator[str]:
    """Protocols whose captions a variant does not make; those of `scoring` once for all rows."""
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
    """Variants that are not scored as the paper's row is, which they stand beside."""
    for name, row in params.variants.items():
        theirs = protocol_of(row.paper.table, row.paper.system) if row.paper else ""
        if theirs and theirs not in ["standard", *params.protocols(name)]:
            yield (
                f"variants.{name}.protocols: the paper's row is scored under {theirs}: name it here"
            )


def languages(params: "Params") -> Iterator[str]:
    """Settings that would empty the captions of a language."""
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
    """The rows of papers.yaml are all of English captions, and so are the letters a-z."""
    if variant.paper:
        yield (
            f"{where}paper: the paper's captions are English, those of corpus "
            f"'{variant.corpus}' are not: leave it out"
        )
    for name in protocols:
        if find_protocol(name).tokens == "letters":
            yield f"{where}protocols: {name} keeps a-z alone, and these captions are not English"


def needed(params: "Params", features: str) -> dict[str, str]:
    """What the decoders of a feature set read of it: variant -> `pooled`, `grid` or `both`."""
    rows = params.variants.items()
    return {name: reads(row.decoder) for name, row in rows if row.features == features}


def least(read: Iterable[str]) -> str:
    """The `keep` of a feature set that is read so."""
    different = set(read)
    return different.pop() if len(different) == 1 else "both"


def keeps(params: "Params") -> Iterator[str]:
    """Feature sets that do not keep what a decoder reads."""
    for name, row in params.features.items():
        read = needed(params, name)
        lacking = [v for v, what in read.items() if row.keep not in (what, "both")]
        if lacking:
            what = least(read[v] for v in lacking)
            yield (
                f"features.{name}.keep: {row.keep}, but {what} is read by {', '.join(lacking)}: "
                f"write keep: {least(read.values())}"
            )
