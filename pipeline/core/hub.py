"""The error for a published model that cannot be loaded from the hub, its cache, or a folder."""

from pathlib import Path

from pipeline.core.errors import UserError, brief


def unusable(
    what: str, model: str, error: BaseException, instead: str = "name a local folder"
) -> UserError:
    """Return the one-line error that says that `what` could not be read.

    Args:
        what: beginning of the line, such as "the weights of 'owner/name'".
        model: a name on the hub, or a folder; several are joined by " + ".
        instead: what else a user can give.
    """
    return UserError(f"{what} cannot be used ({brief(error)}): {cure(model, instead)}")


def cure(model: str, instead: str = "name a local folder") -> str:
    """Return what to do if a model, or one of its files, is missing."""
    from huggingface_hub import constants

    if any(Path(part).expanduser().is_dir() for part in model.split(" + ")):
        return "put there what the model's page on the hub lists"
    return f"put it in the hub's cache {constants.HF_HUB_CACHE} (HF_HOME moves it), or {instead}"
