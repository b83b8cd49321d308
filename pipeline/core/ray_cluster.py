"""A connection to a Ray cluster, with one line where there is none. Ray is imported only here, when
it is asked for."""

import logging
import socket
from typing import Any

from pipeline.core.errors import UserError, brief, one_line

CONNECT = 5.0
"seconds that an address has to answer"


def connect(address: str, option: str, who: str) -> Any:
    """The module ray, connected to a cluster.

    Args:
        address: HOST:PORT, ray://HOST:PORT or auto.
        option: the setting that named it, with the sign before its value, for messages:
            `--ray `, `NAME=`.
        who: needs Ray, for messages.

    Raises:
        UserError: Ray is not installed, or the address does not answer.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            f'{who} needs Ray: pip install "captionlab[cluster]" (in a clone: make env)'
        ) from None
    _check_answers(address, option)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{option}{address}: no Ray cluster answers ({brief(error)}): start one with "
            "ray start --head, or give the address that it prints; if it asks for a token, set "
            "RAY_AUTH_MODE=token here too"
        ) from None
    return ray


def _check_answers(address: str, option: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdecimal():
        raise UserError(
            f"{option}{address} has no port: give HOST:PORT of a running cluster, as ray start "
            "--head prints it, or auto"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT):
            pass
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{option}{address} does not answer ({one_line(error)}): give HOST:PORT of a running "
            "cluster, as ray start --head prints it, or auto"
        ) from None
