"""The way to the Hub: one commit a repository and revision, a tag, and what can go wrong in one line.

The endpoint is huggingface_hub's own (`HF_ENDPOINT`, which it reads when it is imported), as are the login, the
transfer and its retries. Files that stand there already, and weights that the Hub knows by their SHA-256, are not
sent again, so that what was interrupted goes on where it was.
"""

from __future__ import annotations

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from mlm_pretrain.errors import UserError, first_line
from mlm_pretrain.hub.files import Repository

_CONNECT_SECONDS, _ANSWER_SECONDS = 15.0, 180.0


def full_name(api: HfApi, name: str) -> str:
    """The repository's name with its owner; asking who is logged in finds a bad login before anything is sent."""
    limit_waiting()
    user = api.whoami()["name"]
    return name if "/" in name else f"{user}/{name}"


def send(api: HfApi, repository: Repository, private: bool) -> CommitInfo:
    """Make the repository, and the branch, where they aren't there, and commit what differs.

    Raises:
        UserError: it is public and should be private.
    """
    limit_waiting()
    name, kind = repository.repo_id, repository.repo_type
    api.create_repo(name, private=private, exist_ok=True, repo_type=kind, space_sdk=repository.space_sdk)
    if private and not api.repo_info(name, repo_type=kind).private:
        raise UserError(
            f"{name}: this repository exists and is public, while publish.hub_private_repo is true; "
            f"nothing was sent there: make it private on the Hub, or give publish.hub_private_repo=false"
        )
    if repository.revision:
        _make_branch(api, name, repository.revision)
    operations = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in repository.files.items()
    ]
    message = f"Upload {repository.revision or ''} with mlm_pretrain".replace("  ", " ")
    return api.create_commit(name, operations, commit_message=message, repo_type=kind, revision=repository.revision)


def _make_branch(api: HfApi, name: str, branch: str) -> None:
    """A branch off the repository's first commit, so that it holds nothing of what `main` does."""
    if branch not in {ref.name for ref in api.list_repo_refs(name).branches}:
        first = api.list_repo_commits(name)[-1].commit_id
        api.create_branch(name, branch=branch, revision=first, exist_ok=True)


def set_tag(api: HfApi, name: str, tag: str, commit: str) -> None:
    """
    Raises:
        UserError: the tag stands already, at another commit.
    """
    if tag in {ref.name for ref in api.list_repo_refs(name).tags}:
        stands_at = api.model_info(name, revision=tag).sha
        if stands_at != commit:
            raise UserError(
                f"{name}: the tag '{tag}' stands already, at {str(stands_at)[:8]}; what was sent is {commit[:8]} on "
                f"`main`: give another --tag, or delete that one on the Hub"
            )
        return
    api.create_tag(name, tag=tag, revision=commit)


def limit_waiting() -> None:
    """huggingface_hub waits without end for an answer by default; its retries keep the client that is set here."""
    client = get_session()
    if client.timeout.read is None:
        client.timeout = type(client.timeout)(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)


EXPECTED = (HTTPError, OSError, ValueError, RuntimeError)
"""What huggingface_hub raises where the network, the Hub or the login are at fault."""


def reason(error: BaseException) -> str:
    """What went wrong, for the user; what the Hub said is kept, tokens are never in it."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return reason(error.__cause__)  # an upload of several that failed
    if isinstance(error, LocalTokenNotFoundError):
        return "you are not logged in: `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to push"
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, HfHubHTTPError):
        if isinstance(error, HTTPError):
            return f"no connection to {constants.ENDPOINT} ({type(error).__name__}: {first_line(error)})"
        return " ".join(f"{type(error).__name__}: {error}".split())
    status = error.response.status_code
    said = f" ({' '.join(error.server_message.split())})" if error.server_message else ""
    if status == 401:
        return f"the login was refused (401){said}: `hf auth login`, or set HF_TOKEN to a valid token"
    if status == 403:
        return (
            f"this token may not write there (403){said}: use one with write access, or another name; "
            f"or is the storage full?"
        )
    if status in (402, 413, 507):
        return f"the Hub has no room for it ({status}){said}: look at the quota of the account"
    return f"the Hub answered {status}{said}" + (": its fault, try later" if status >= 500 else "")
