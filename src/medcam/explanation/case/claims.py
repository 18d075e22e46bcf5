"""The name of a case that no other case of the folder has: a record of another input is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medcam.errors import InputError
from medcam.explanation.case.names import append_to_name
from medcam.files import safe_name
from medcam.files.claims import claim
from medcam.files.record.digests import sha256_of_file
from medcam.files.record.sidecar import read_sidecar


@contextmanager
def claimed_prefix(
    folder: Path,
    files: Sequence[Path],
    *,
    name: str | None = None,
    stem: str | None = None,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Find the prefix of a case's files, and keep it from other processes while they are written.

    Without ``name`` it is the first image's name without its ending. Where that is the name of a
    case of another image, the name of the image's folder comes before it (``pB_T1``), and then its
    ending after it (``pB_T1_nii``).

    Args:
        folder: Where the case is saved.
        files: The images that are explained.
        name: The name that the user gave.
        stem: The name of the case, in place of that of the first image.
        overwrite: Whether a case of another image may be replaced.

    Yields:
        The prefix.

    Raises:
        InputError: Each name is that of another case.

    Example:
        >>> with claimed_prefix(Path("out"), [Path("pA/T1.nii.gz")]) as prefix:
        ...     prefix.as_posix()
        'out/T1'
    """
    for candidate in [name] if name else _names(files, stem):
        prefix = folder / safe_name(candidate)
        if not overwrite and is_of_other_input(prefix, files):
            continue
        try:
            held = claim(prefix, recent=False)
        except OSError:  # no folder for locks
            yield prefix
            return
        if held is None and not overwrite:
            continue
        try:
            if not overwrite and is_of_other_input(prefix, files):
                continue  # another process wrote it just before the claim
            yield prefix
        finally:
            if held is not None:
                held.release()
        return
    taken = folder / safe_name(name or _names(files, stem)[0])
    if not is_of_other_input(taken, files):
        raise InputError(
            f"Another process is just writing '{taken}': wait, or give another name (--name)."
        )
    raise InputError(
        f"'{taken}' holds the maps of another image: give another name (--name), another folder "
        "(--output), or replace them (--overwrite)."
    )


def is_of_other_input(prefix: Path, files: Sequence[Path]) -> bool:
    """Return whether there is a record at a prefix that names other images.

    A record that cannot be read is not replaced, either. An image whose content changed is the
    same one.
    """
    path = append_to_name(prefix, ".json")
    if not path.exists():
        return False
    try:
        entries = read_sidecar(path)["inputs"]
        recorded = [entry for entry in entries if entry["path"] is not None]
        places = [(path.parent / entry["path"]).resolve() for entry in recorded]
        digests = [entry["sha256"] for entry in recorded]
    except Exception:  # noqa: BLE001  # a record of any content
        return True
    if places == [file.resolve() for file in files]:
        return False
    return digests != [sha256_of_file(file) for file in files]


def _names(files: Sequence[Path], stem: str | None) -> list[str]:
    """Return the names that a case may have, the shortest first."""
    path = files[0].resolve()
    own = stem or stem_of(files[0])
    ending = path.name[len(stem_of(files[0])) :].strip(".").partition(".")[0]
    parents = [parent for parent in (path.parent.name, path.parent.parent.name) if parent]
    names, longer = [own], own
    for parent in parents:
        longer = f"{parent}_{longer}"
        names.append(longer)
    return [*names, f"{longer}_{ending}"]


def stem_of(path: Path) -> str:
    """Return a file's name without its ending.

    Example:
        >>> stem_of(Path("a/ct.1.nii.gz"))
        'ct.1'
    """
    name = path.name
    for ending in (".nii.gz", path.suffix):
        if ending and name.lower().endswith(ending.lower()):
            return name[: -len(ending)]
    return name
