"""The Hugging Face hub: models that others open by a name.

A repository of the hub is a folder with a history. `fetch` brings the files of a model
out of one commit of it, `push` sends a folder as one commit. Both go through the hub's
own client, which reads HF_ENDPOINT, HF_TOKEN and HF_HOME. Its errors are of many kinds;
here they become OSErrors that say what to do next. Chapter: 19 "Train on your own
pictures".
Source: huggingface_hub documentation.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import cast

from huggingface_hub import (
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    constants,
    errors,
    get_token,
    snapshot_download,
)

HUB = "hf://"  # what a name of the hub may begin with
CARD = "README.md"
SOURCE = "https://github.com/hkd-mini/hkd-mini"
LOGIN = "`hf auth login` keeps a token, HF_TOKEN=... or token=... gives one"


def repository(name: str) -> tuple[str, str | None]:
    """What "hf://user/name@revision" names: "user/name" and the revision, or None."""
    repo, _, revision = name.removeprefix(HUB).partition("@")
    return repo, revision or None


def fetch(name: str, files: Sequence[str], **hub) -> pathlib.Path:
    """The folder with `files` of the repository `name`, "user/name" or
    "hf://user/name@revision", all of one commit; kept in the hub's cache.

    A repository may lack a README.md. `hub`: revision (branch, tag or commit), token,
    cache_dir, local_files_only, ... of snapshot_download. Raises FileNotFoundError for
    what is not there, ConnectionError where the hub cannot be reached and nothing is
    cached, ValueError for a name that the hub cannot have.
    """
    repo, revision = repository(name)
    hub = {"revision": revision, **hub}
    with _explained(name, hub["revision"]):
        folder = pathlib.Path(
            snapshot_download(repo, allow_patterns=list(files), **hub)
        )
    for file in set(files) - {CARD}:
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{name}: no {file} in that repository; wanted one that push_to_hub "
                "has written"
            )
    return folder


def push(
    folder: str | os.PathLike,
    name: str,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    message: str = "Weights, configuration and card",
) -> str:
    """Send the files of `folder` to the repository `name`, "user/name", in one commit
    with a `message`; gives the commit's address.

    The repository is made where there is none, `private` or not, and so is the
    `branch`; without one the files go to main. Raises PermissionError without a token,
    or for one that may not write there, ConnectionError where the hub cannot be
    reached, ValueError for a name that the hub cannot have.
    """
    check_writer(name, token)
    with _explained(name, branch, writing=True):
        api = HfApi(token=token)
        made = api.create_repo(name, private=private, exist_ok=True).repo_id
        if branch not in (None, "main"):
            api.create_branch(made, branch=str(branch), exist_ok=True)
        done = api.upload_folder(
            repo_id=made,
            folder_path=pathlib.Path(folder),
            commit_message=message,
            revision=branch,
        )
    return str(done.commit_url)


def check_writer(name: str, token: str | None = None) -> None:
    """PermissionError where there is no token to write to the repository `name` with:
    neither `token` nor one that was kept.
    """
    if not (token or get_token()):
        raise PermissionError(
            f"{name}: writing to the hub takes a token, and there is none; make one "
            f"that may write at {constants.ENDPOINT}/settings/tokens, then {LOGIN}"
        )


def model_card(
    name: str, kind: str, count: int, results: Sequence[EvalResult] = ()
) -> ModelCard:
    """The card of a `kind` of model with `count` parameters in the repository `name`,
    "user/name", or "" for a folder, with how to load it; `results` as `with_results`.
    """
    short = name.split("/")[-1] or kind
    where = f"{HUB}{name}" if name else "this/folder"
    about = ModelCardData(library_name="hkd-mini", tags=["hkd-mini", kind.lower()])
    text = (
        f"---\n{about.to_yaml()}\n---\n\n# {short}\n\n"
        f"{kind} of [hkd-mini]({SOURCE}), {count / 1e6:.3g} million parameters.\n\n"
        f'```python\nimport hkd_mini\n\nmodel = hkd_mini.load("{where}")\n```\n\n'
        f"`pip install git+{SOURCE}` installs the package. The weights are\n"
        "safetensors, `config.json` says what they are of, and nothing in them runs.\n"
    )
    return with_results(text, short, results)


def with_results(text: str, name: str, results: Sequence[EvalResult]) -> ModelCard:
    """The card `text` with what was measured of the model `name` in its metadata, the
    `model-index` that the hub reads; without `results` it has none.
    """
    card = ModelCard(text)
    about = cast(ModelCardData, card.data)
    about.model_name = name if results else None
    about.eval_results = list(results) or None
    return card


@contextlib.contextmanager
def _explained(
    name: str, revision: str | None, writing: bool = False
) -> Iterator[None]:
    """What the hub's client raises, as an error that says what to do next."""
    where = constants.ENDPOINT
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(
            f"{name!r}: no folder, and no name on the hub, which is user/name ({error})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: no revision {revision!r} there; wanted a branch, a tag or a "
            "commit"
        ) from error
    except errors.LocalEntryNotFoundError as error:  # before its kin
        raise ConnectionError(
            f"{name}: no such folder, no bundled name, not in the hub's cache, and "
            f"{where} does not give it; look at the name and the connection "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if writing and status in (401, 403, 404):
            raise PermissionError(
                f"{name}: this token may not write there ({where} says {status}); "
                f"make one that may at {where}/settings/tokens, then {LOGIN}"
            ) from error
        if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
            raise FileNotFoundError(
                f"{name}: no such folder, no bundled name, and {where} has no "
                "repository of that name, or not for all to see: for a private or "
                f"gated one {LOGIN}"
            ) from error
        raise OSError(f"{name}: {where} says: {error}") from error
    except ValueError as error:  # of the card's metadata
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
    except (errors.HTTPError, OSError) as error:
        if getattr(error, "errno", None) and not isinstance(error, ConnectionError):
            raise  # of this machine: a full disk, a place that may not be written
        raise ConnectionError(
            f"{name}: {where} was not reached ({type(error).__name__}: {error}); look "
            "at the connection, or at HF_ENDPOINT"
        ) from error
