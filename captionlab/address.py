"""Check the address at which a server of captionlab listens."""

import socket

from pipeline.core.errors import UserError


def check_address(host: str, port: int) -> None:
    """Raise a UserError if no server can listen there; call this before anything slow."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot serve at {host}:{port} ({what}): name another --port, or --host"
            ) from None
