"""Data sets of the `datasets` library: opened by name or folder, with one line for whatever keeps
them shut."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, brief

if TYPE_CHECKING:
    from typing import TypeAlias

    from datasets import Dataset, IterableDataset

    Rows: TypeAlias = Dataset | IterableDataset

SAVED = ("dataset_dict.json", "state.json")
"of a folder that `save_to_disk` wrote, with several splits and with one"
ONLY = "train"
"what a data set without splits is called by the library"


@dataclass(frozen=True)
class Opened:
    splits: "dict[str, Rows]"
    revision: str
    "the commit on the hub; '' of a local folder"
    root: Path | None
    "the local folder"


def open_set(name: str, config: str | None, revision: str | None, streaming: bool) -> Opened:
    """Every split of a data set, none of its rows read.

    Args:
        name: a local folder, or a name on the hub.
        streaming: rows come from the hub as they are read, and no copy is kept. Of a local folder
            none is kept anyway.

    Raises:
        UserError: the library is not installed, there is no such data set, or it may not be read.
    """
    root = Path(name).expanduser()
    with told(name):
        datasets = _library()
        if not root.is_dir():
            builder = datasets.load_dataset_builder(name, config, revision=revision)
            if streaming:
                return Opened(dict(builder.as_streaming_dataset()), str(builder.hash), None)
            builder.download_and_prepare()
            return Opened(dict(builder.as_dataset()), str(builder.hash), None)
        if any((root / file).is_file() for file in SAVED):
            found = datasets.load_from_disk(str(root))
            return Opened(dict(found) if isinstance(found, dict) else {ONLY: found}, "", root)
        return Opened(dict(datasets.load_dataset(str(root), config, streaming=True)), "", root)


def _library() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise UserError(
            'the package datasets is not installed: pip install "captionlab[hf]" (in a clone: '
            "make env)"
        ) from None
    from huggingface_hub.utils import logging

    datasets.disable_progress_bars()  # the rows have a bar of their own
    for library in (datasets.logging, logging):
        library.set_verbosity(CRITICAL)  # each of several tries would be a line
    return datasets


def columns_of(rows: "Rows") -> list[str]:
    """Names of the columns; those of the first row where the data set does not tell."""
    return list(rows.column_names or next(iter(rows.take(1)), {}))


def undecoded(rows: "Rows", image: str, columns: list[str]) -> "Rows":
    """Some columns alone, pictures as the bytes or the path of their file."""
    from datasets import Image

    rows = rows.select_columns(columns)
    if rows.features and isinstance(rows.features.get(image), Image):
        return rows.cast_column(image, Image(decode=False))
    return rows


def rows_of(rows: "Rows", name: str) -> Iterator[dict[str, Any]]:
    """Its rows; errors as `told`."""
    found = iter(rows)
    while True:
        with told(name):
            row = next(found, None)
        if row is None:
            return
        yield row


@contextmanager
def told(name: str) -> Iterator[None]:
    """What the library and the hub raise over a data set, as one line. They raise errors of every
    kind, so nothing else is run inside.

    Raises:
        UserError: instead of those.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data set '{name}' {_why(error)}") from None


def _why(error: Exception) -> str:
    kinds = {kind.__name__ for e in _chain(error) for kind in type(e).__mro__}
    if "GatedRepoError" in kinds or "gated" in str(error):
        return (
            "is gated: accept its terms on its page of the hub, and set HF_TOKEN to a token of "
            "that account"
        )
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "HFValidationError"}:
        return (
            "is neither a folder nor on the hub: correct name: in params.yaml, or set HF_TOKEN if "
            "it is private"
        )
    if kinds & {"RevisionNotFoundError"}:
        return "has no such revision: correct revision: in params.yaml"
    if kinds & {"ConnectionError", "TransportError", "OfflineModeIsEnabled"}:
        return (
            f"is not in the cache, and the hub is out of reach ({brief(error)}): run where there "
            "is a network, or name a local folder"
        )
    return f"cannot be read: {brief(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
