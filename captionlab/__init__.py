"""Image captioning: caption pictures, score captions, read result tables.

    from captionlab import Captioner, evaluate, results

    Captioner.load("champion").caption("photo.jpg")     a trained model on a picture
    evaluate("captions.json", "references.json")        captions from anywhere -> scores
    results()                                           the scores of a workspace, as a DataFrame

`import captionlab` loads nothing else: each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captionlab.captioner import Caption, Captioner
    from captionlab.comparison import Comparison
    from captionlab.evaluation import Evaluation, evaluate
    from captionlab.tidy import results
    from pipeline.core.errors import UserError

    __version__: str

__all__ = [
    "Caption",
    "Captioner",
    "Comparison",
    "Evaluation",
    "UserError",
    "__version__",
    "evaluate",
    "results",
]

_HOMES = {
    "Caption": "captionlab.captioner",
    "Captioner": "captionlab.captioner",
    "Comparison": "captionlab.comparison",
    "Evaluation": "captionlab.evaluation",
    "UserError": "pipeline.core.errors",
    "evaluate": "captionlab.evaluation",
    "results": "captionlab.tidy",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("captionlab")
    if name not in _HOMES:
        raise AttributeError(f"module 'captionlab' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
