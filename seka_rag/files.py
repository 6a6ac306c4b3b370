"""Where banks lie: files on disk, and repositories of the Hugging Face hub.

Nothing here knows what is in them.
"""

import os
import re
import tempfile
from pathlib import Path

from seka_rag.errors import BankError


def write_beside(path: Path, content: bytes) -> None:
    """Write a file beside the path and then in its place: interrupted, the old one stays."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _is_repository(source: str | Path) -> bool:
    return isinstance(source, str) and bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source))


def on_hub(source: str) -> list[str]:
    """Return the files of a repository on the Hugging Face hub; none where it cannot be reached."""
    if not _is_repository(source):
        return []
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return list(HfApi().list_repo_files(source))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return []


def locate(source: str | Path, name: str) -> Path:
    """Return the path of the bank's file `name` in a folder or a repository, or of the file itself.

    Where there is none, that is a BankError.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / name
    if path.is_file():
        return path
    if _is_repository(source):
        source = str(source)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(source, name))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise BankError(
                f"there is no bank at {source}, neither a folder here nor on the hub: {reason}"
            ) from error
    raise BankError(
        f"there is no bank at {path}: give a {Path(name).name}, a folder that holds one, or the "
        "name of a hub repository"
    )
