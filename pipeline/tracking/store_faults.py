"""What can be wrong with an MLflow store, in one line: every failure becomes `StoreDown`."""

import http.client
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.errors import UserError, one_line
from pipeline.tracking.sqlite import CURE, database, fault, is_broken

PROBE_SECONDS = 3.0


class StoreDown(UserError):
    """The store does not answer, refuses, or is not a store. Whatever could not be stored is still
    in the workspace."""

    later = "captionlab sync publishes it later"
    "What happens to results that could not be published."


class StoreBroken(StoreDown):
    """The database of a workspace cannot be used until someone does what the message says."""

    later = "no run of it is lost"


@contextmanager
def trouble(uri: str) -> Iterator[None]:
    """Turn every failure between this process and the store into StoreDown."""
    try:
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        todo = 'pip install "captionlab[pipeline]"'
        raise StoreDown(f"MLflow cannot be imported here ({error}): {todo}") from None
    for name in (
        "mlflow",
        "alembic",
        "urllib3.connectionpool",
    ):  # importing mlflow sets other levels
        logging.getLogger(name).setLevel(logging.ERROR)
    # This logger writes a traceback for each database error, which is also raised. One line is
    # enough.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        yield
    except (
        MlflowException,
        RequestException,
        SQLAlchemyError,
        http.client.HTTPException,
        OSError,
    ) as error:
        if wrong := _fault_of_file(database(uri), str(error)):
            raise StoreBroken(wrong) from None
        raise down(uri, error) from error


def _fault_of_file(file: Path | None, said: str) -> str:
    """Return a fault of the database that waiting does not cure, and its cure; '' if there is
    none."""
    if not file or not file.is_file():
        return ""
    if is_broken(file):
        return f"MLflow's database {file} is broken: {CURE}"
    with suppress(OSError):
        wrong = fault(file, "readonly" in said, PROBE_SECONDS)
        return f"MLflow's database {file} {wrong}" if wrong else ""
    return ""


def down(uri: str, error: BaseException) -> StoreDown:
    return StoreDown(f"MLflow at {without_password(uri)} is out of reach ({_short(error)})")


def without_password(text: str) -> str:
    """Return an address, or a message with addresses, without passwords and tokens."""
    hidden = re.sub(r"(?<=://)\S*@", "", text)
    return re.sub(r"(?i)\b(password|passwd|pwd|token)=[^&\s]+", r"\1=***", hidden)


def _short(error: BaseException) -> str:
    if "database or disk is full" in str(error):
        return "the disk of its database is full: free some space"
    text = without_password(one_line(error)) or type(error).__name__
    return text if len(text) <= 170 else f"{text[:70]} ... {text[-95:]}"  # the cause is at the end
