"""Upload an exported folder to a repository on the Hugging Face hub.

Everything that the hub can refuse is checked before anything is created there. Files that an
interrupted upload has sent stay on the hub; the next upload sends the rest.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, brief, let_through, one_line, say

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

# Statuses for a user who may not write to a repository. The hub may hide that it exists.
NO_WRITING = (401, 403, 404)
# Statuses below 500 that may not occur again at another try.
PASSING = (408, 409, 429)
AGAIN = "run the same command again, which sends what is missing"
SET_TOKEN = "set HF_TOKEN or run hf auth login"
NEW_TOKEN = f"make one with permission to write in the settings of the account, then {SET_TOKEN}"


@dataclass(frozen=True)
class User:
    """The owner of the token."""

    name: str
    organisations: tuple[str, ...]


@dataclass(frozen=True)
class Repository:
    """A repository that `user` may write to, or that does not exist yet."""

    name: str
    user: User
    private: bool
    is_new: bool

    @property
    def visibility(self) -> str:
        return "private" if self.private else "public"


def check_name(name: str) -> None:
    """Raise a UserError if the name is not USER/REPO."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    cure = "give USER/REPO, such as ann/captions"
    if "/" not in name:
        raise UserError(f"--to '{name}' names no user or organisation: {cure}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        why = one_line(error)
        raise UserError(f"--to '{name}' is not a name on the hub ({why}): {cure}") from None


def find(name: str, public: bool) -> Repository:
    """Return the repository as it is on the hub, or as it would be created. Create nothing.

    Raises:
        UserError: the hub cannot be reached, does not accept the token, or does not let its user
            write to the repository; or the repository is public and `public` is False.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    api, user = HfApi(), _user(name)
    with _told(name, user):
        try:
            private = bool(api.model_info(name).private)
        except GatedRepoError:  # which others may read when they have asked
            private = False
        except RepositoryNotFoundError:
            return Repository(name, user, not public, is_new=True)
        api.auth_check(name, write=True)
    if not private and not public:
        raise UserError(
            f"{name} exists already and is public: give --public to upload to it, or name a new "
            "repository"
        )
    return Repository(name, user, private, is_new=False)


def upload(repository: Repository, folder: Path, revision: str | None, message: str) -> str:
    """Upload all files of a folder in one commit, or in a few if there are many. Create the
    repository and the branch if they do not exist.

    Returns:
        Address of the last commit.

    Raises:
        UserError: the hub refuses, or was not reached until the end.
    """
    from huggingface_hub import HfApi

    api, name = HfApi(), repository.name
    with _told(name, repository.user, AGAIN), _in_few_lines():
        _check_head(folder / "README.md")
        if repository.is_new:
            api.create_repo(name, private=repository.private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=name, folder_path=folder, revision=revision, commit_message=message
        )
    return str(done.commit_url)


def _check_head(card: Path) -> None:
    """Raise a UserError if the hub would not accept the card. The hub itself checks it only after
    the repository has been created."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    text = card.read_text("utf-8")
    if not text.lstrip().startswith("---"):  # no metadata
        return
    try:
        ModelCard(text).validate()
    except (TypeError, ValueError, YAMLError) as error:
        raise UserError(
            "README.md of the model begins with metadata that the hub does not take "
            f"({brief(error)}): correct them in the model's folder"
        ) from None


def _user(name: str) -> User:
    """Return the owner of the token. Raise a UserError if there is none, or if it is read-only."""
    from huggingface_hub import HfApi, get_token, is_offline_mode

    if is_offline_mode():
        raise UserError(
            "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing can go up: unset it, or "
            "give --dry-run to see what would"
        )
    with _told(name, None):
        if get_token() is None:
            raise UserError(f"there is no token of the hub: {SET_TOKEN}; it must be able to write")
        about = HfApi().whoami()
    if _role(about) == "read":
        raise UserError(f"the token of {about['name']} may read, not write: {NEW_TOKEN}")
    named = [str(one.get("name")) for one in about.get("orgs") or []]
    return User(str(about["name"]), tuple(named))


def _role(about: dict[str, Any]) -> str:
    """Return read, write or fineGrained; '' if the hub does not say."""
    token = (about.get("auth") or {}).get("accessToken") or {}
    return str(token.get("role", ""))


@contextmanager
def _told(name: str, user: User | None, cure: str = "run the same command again") -> Iterator[None]:
    """Turn errors of the hub into one-line UserErrors.

    Args:
        name: name of the repository.
        user: owner of the token. None until the hub has accepted it.
        cure: what to do if the connection is lost.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import DeviceCodeError, HfHubHTTPError, HTTPError, OIDCError

    try:
        yield
    except HfHubHTTPError as error:
        raise UserError(_refusal(name, user, error, cure)) from None
    except (DeviceCodeError, OIDCError) as error:
        raise UserError(f"there is no token of the hub ({brief(error)}): {SET_TOKEN}") from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # of httpx, hf_xet and JSON
        if getattr(error, "errno", None):
            let_through(error)
        raise UserError(
            f"{name}: the hub at {constants.ENDPOINT} does not answer as it should "
            f"({brief(error)}): check the network and HF_ENDPOINT, then {cure}"
        ) from None


def _refusal(name: str, user: User | None, error: "HfHubHTTPError", cure: str) -> str:
    status = error.response.status_code
    why = f"status {status}: {(error.server_message or one_line(error))[:160]}"
    if user is None and status in NO_WRITING:
        return f"the hub does not accept the token ({why}): {NEW_TOKEN}"
    if user is not None and status in NO_WRITING:
        known = ", ".join(user.organisations) or "none"
        return (
            f"the token of {user.name} may not write to {name} ({why}): name a repository of "
            f"{user.name} or of an organisation (the token's: {known}), or {NEW_TOKEN}"
        )
    if status not in PASSING and status < 500:
        cure = "change what the hub names here"
    return f"{name}: the hub refuses ({why}): {cure}"


@contextmanager
def _in_few_lines() -> Iterator[None]:
    """Hide the library's log, which repeats each failed request, and keep its progress bars. Print
    warnings about the card as one line each."""
    from huggingface_hub import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", UserWarning)
            yield
    finally:
        logging.set_verbosity(before)
    for warning in found:
        if issubclass(warning.category, UserWarning):
            say(f"warning: {' '.join(str(warning.message).split())}", file=sys.stderr)
