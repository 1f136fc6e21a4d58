"""Image files under a folder, by their endings; none is opened."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from ssl_diffusion.data.decoding import HEIF, reads_heif
from ssl_diffusion.errors import DataError

__all__ = ["ENDINGS", "list_images"]

_log = logging.getLogger(__name__)

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def list_images(root: Path) -> list[Path]:
    """All image files under a folder, by ending (:data:`ENDINGS`, any case), sorted by their relative POSIX path.

    Images in HEIF are among them where pillow-heif is installed; else a warning says how many there are.

    Hidden files and folders are left out. Links are followed, except back into a folder that contains them. A dangling
    link is listed, so that reading reports it.

    Raises:
        DataError: if a folder cannot be read, or a file name is not valid UTF-8 (it could not be written to a CSV file).
    """
    left_out: list[str] = []
    endings = ENDINGS + HEIF if reads_heif() else ENDINGS
    names = sorted(_walk(os.fspath(root), "", frozenset(), endings, left_out))
    if left_out:
        _log.warning(
            "%d .heic files under %s are skipped (such as %s): to read them, pip install pillow-heif",
            len(left_out),
            root,
            min(left_out),
        )
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the file name {os.fsencode(name)!r} under {root} is not valid UTF-8: rename the file") from None
    return [Path(root, name) for name in names]


def _walk(folder: str, prefix: str, above: frozenset[str], endings: tuple[str, ...], left_out: list[str]) -> Iterator[str]:
    """Relative POSIX paths of the image files under a folder.

    Args:
        folder: Folder to look into.
        prefix: Path of it relative to the first one, with a slash at the end.
        above: Real paths of the folders around it.
        endings: Endings of image files.
        left_out: List that takes the paths of images in HEIF if these are not among them.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    for entry in entries:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder, is_file = False, False
        if is_folder:
            yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here}, endings, left_out)
        elif entry.name.lower().endswith(endings) and (is_file or entry.is_symlink()):
            yield prefix + entry.name
        elif is_file and entry.name.lower().endswith(HEIF):
            left_out.append(prefix + entry.name)
