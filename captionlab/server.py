"""`captionlab serve`: load a model, and serve it over HTTP until interrupted."""

import socket
import sys
from typing import Any

from PIL import Image

from captionlab.door import Door
from captionlab.front import run_in_front
from pipeline.core.errors import UserError, brief
from pipeline.core.machine import let_threads_sleep
from pipeline.tracking.store_address import address_of_process

# Seconds for which a thread may keep Python's global lock (GIL) while others wait. The default is
# five times as long.
TURN = 0.001


def serve(model: str, uri: str, host: str, port: int, limit: int) -> None:
    """Serve until interrupted.

    Args:
        model: MLflow's address of a model, such as `models:/NAME@champion`, or a model's folder.
        uri: address of the tracking server.
        limit: maximum bytes of a request's body.

    Raises:
        UserError: the model cannot be loaded, or the port is taken.
    """
    let_threads_sleep()
    import uvicorn
    from mlflow.pyfunc import scoring_server

    place = _bound(host, port)
    loaded = _loaded(model, uri)

    def front() -> None:
        sys.setswitchinterval(TURN)
        app = Door(scoring_server.init(loaded), limit)
        print(f"{model} answers POST http://{host}:{port}/invocations", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[place])

    captioner = _captioner(loaded, model)
    captioner.caption([Image.new("RGB", (8, 8))])  # the first call takes a second longer
    run_in_front(captioner, front)


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, before the model is loaded, which takes seconds."""
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be used ({error.strerror}): name another --host or --port"
        ) from None
    return place


def _loaded(model: str, uri: str) -> Any:
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import load_model

    try:
        with address_of_process(uri):
            return load_model(model)
    except (MlflowException, OSError) as error:
        known = "champion, models:/NAME/VERSION, runs:/RUN/captioner, or a folder with MLmodel"
        raise UserError(
            f"model '{model}' cannot be loaded ({brief(error)}): name {known}"
        ) from None


def _captioner(loaded: Any, model: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return loaded.unwrap_python_model().captioner
    except (MlflowException, AttributeError):
        raise UserError(
            f"model '{model}' is not a captioner: name one that `track` published"
        ) from None
