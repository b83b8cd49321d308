"""How long a stage waits for the MLflow store, in one call and in total."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.tracking.store_faults import StoreDown, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Seconds that a stage waits for a store in total. CAPTIONLAB_MLFLOW_SECONDS overrides it.
STAGE_SECONDS = 10.0
# Seconds that a request may wait for an answer, except one that transfers a file.
ANSWER_SECONDS = 20.0
# Seconds at the start of each call that the budget does not count.
FREE = 0.5
# Attempts per request. The default client retries for four minutes.
TRIES = 2
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
# Calls that transfer files, which may legitimately take long. Each one fails only after
# `request_seconds` without a byte.
MOVING = {"log_artifact", "log_artifacts", "log_model_artifacts", "download_artifacts"}


class Budget:
    """The total time that a stage waits for a store.

    Args:
        seconds: how long all calls may take together. The first `FREE` seconds of each call are not
            counted, because a busy server is not a dead one. File transfers are not counted either.
    """

    def __init__(self, seconds: float):
        self.seconds, self.spent = seconds, 0.0

    @classmethod
    def of_stage(cls) -> "Budget":
        """Return the budget of a stage.

        Raises:
            UserError: `CAPTIONLAB_MLFLOW_SECONDS` is not a finite number above 0.
        """
        text = os.environ.get("CAPTIONLAB_MLFLOW_SECONDS") or str(STAGE_SECONDS)
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            message = f"CAPTIONLAB_MLFLOW_SECONDS={text}: expected a number of seconds above 0"
            raise UserError(message)
        return cls(seconds)

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    @contextmanager
    def counted(self, free: float = 0.0) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.spent += max(0.0, time.monotonic() - started - free)


class BoundedClient:
    """An MlflowClient whose calls wait no longer than what is left of the budget. Calls in `MOVING`
    are not limited."""

    def __init__(self, client: "MlflowClient", uri: str, budget: Budget):
        self._client, self._uri, self._budget = client, uri, budget

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return found if name in MOVING or not callable(found) else partial(self._call, found)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._budget.left <= 0:
            raise StoreDown(
                f"MLflow at {without_password(self._uri)} is too slow: it has taken the "
                f"{self._budget.seconds:g} s that a stage waits for it (CAPTIONLAB_MLFLOW_SECONDS)"
            )
        with self._budget.counted(FREE), _timeout(self._budget.left / TRIES):
            return method(*args, **kwargs)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Limit the timeout of MLflow's requests. They read it from the environment, in whole
    seconds."""
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(max(1, int(min(float(before), ANSWER_SECONDS, seconds))))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before
