"""Data sets of the `datasets` library, opened by name or folder; any failure becomes a message of
one line."""

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

# Files that mark a folder written by `save_to_disk`: with several splits, and with one.
SAVED = ("dataset_dict.json", "state.json")
# Name that the library gives to the split of a data set without splits.
ONLY = "train"


@dataclass(frozen=True)
class Opened:
    splits: "dict[str, Rows]"
    revision: str
    "Commit on the hub; '' for a local folder."
    root: Path | None
    "The local folder; None for a data set of the hub."


def open_set(name: str, config: str | None, revision: str | None, streaming: bool) -> Opened:
    """Open every split of a data set without reading its rows.

    Args:
        name: a local folder, or a name on the hub.
        streaming: whether rows are read from the hub on demand, without keeping a copy. No copy is
            made of a local folder in any case.

    Raises:
        UserError: the library is not installed, the data set does not exist, or it may not be read.
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
        library.set_verbosity(CRITICAL)  # each retry would print a line
    return datasets


def columns_of(rows: "Rows") -> list[str]:
    """Return the names of the columns; if the data set does not state them, those of the first
    row."""
    return list(rows.column_names or next(iter(rows.take(1)), {}))


def undecoded(rows: "Rows", image: str, columns: list[str]) -> "Rows":
    """Return the rows with only `columns`, and with pictures as the bytes or the path of their
    file."""
    from datasets import Image

    rows = rows.select_columns(columns)
    if rows.features and isinstance(rows.features.get(image), Image):
        return rows.cast_column(image, Image(decode=False))
    return rows


def rows_of(rows: "Rows", name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set. Errors are those of `told`."""
    found = iter(rows)
    while True:
        with told(name):
            row = next(found, None)
        if row is None:
            return
        yield row


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn whatever the library and the hub raise about a data set into an error of one line.

    They raise errors of every kind, so only their calls belong inside the block.

    Raises:
        UserError: in place of any other error.
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
    """Yield the error, then each error that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
