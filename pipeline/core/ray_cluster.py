"""Connect to a Ray cluster, or fail with a one-line error. Ray is imported only when `connect` is
called."""

import logging
import socket
from typing import Any

from pipeline.core.errors import UserError, brief, one_line

# Seconds an address has to answer.
CONNECT = 5.0


def connect(address: str, option: str, who: str) -> Any:
    """Return the module `ray`, connected to a cluster.

    Args:
        address: HOST:PORT, ray://HOST:PORT or auto.
        option: the setting that gave the address, for messages. It includes the sign before its
            value: `--ray `, `NAME=`.
        who: what needs Ray, for messages.

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
    """Check that an address accepts connections; Ray itself would try for minutes."""
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
