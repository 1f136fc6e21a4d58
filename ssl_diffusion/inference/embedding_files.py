"""Representations as files by sample id, which other programs read, and `precomputed:FILE` reads back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.data.images import iter_image_batches
from ssl_diffusion.errors import DataError
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.inference.predict_files import collect_images
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import FileReader
from ssl_diffusion.outputs import check_output_file, output_file
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["check_embedding_file", "embed_files", "write_embeddings"]

_ENDINGS = (".npz", ".csv", ".parquet")


def embed_files(
    run: Run,
    inputs: Sequence[Path],
    *,
    skip_bad: bool = False,
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
) -> tuple[list[str], NDArray[np.float32], list[tuple[str, str]]]:
    """Representations of image files.

    Args:
        run: Fitted model.
        inputs: Image files, and folders of them; see :func:`collect_images` for the ids.
        skip_bad: Whether files that cannot be read are left out.
        batch_size: Images in a batch.
        progress: Callback for the number of images read.

    Returns:
        Ids, representations, float32 (n, F), and the (id, reason) of files that were left out.

    Raises:
        DataError: If there is no image, or one cannot be read and `skip_bad` is off, or none can be.

    Example:
        >>> ids, z, skipped = embed_files(run, [Path("photos")])  # doctest: +SKIP
    """
    paths, names = collect_images(inputs)
    reader = FileReader(run, paths, names)
    ids: list[str] = []
    parts: list[NDArray[np.float32]] = []
    skipped: list[tuple[str, str]] = []
    for batch in iter_image_batches(paths, run.image_shape, batch_size, skip_bad, ids=names, aspect=run.aspect):
        skipped += batch.skipped
        if len(batch.ids):
            ids += batch.ids
            parts.append(represent(run.model, reader.rows(batch.ids, batch.images), precision=run.precision))
        if progress is not None:
            progress(ProgressUpdate("embed", len(ids) + len(skipped), len(paths)))
    if not parts:
        raise DataError(f"none of the {len(paths)} images can be read: {skipped[0][0]}: {skipped[0][1]}, for one")
    return ids, np.concatenate(parts), skipped


def check_embedding_file(out: Path, inputs: Sequence[Path]) -> None:
    """Raise the error of :func:`write_embeddings` for a place, before representations are computed."""
    if out.suffix not in _ENDINGS:
        raise DataError(f"representations are written to {', '.join(_ENDINGS)} files, not to {out}")
    check_output_file(out, overwrite=True, inputs=inputs)


def write_embeddings(ids: Sequence[str], z: NDArray[np.float32], out: Path, inputs: Sequence[Path] = ()) -> None:
    """Write representations: .npz with ids and features, .parquet with a column of lists, .csv with a column a feature.

    Args:
        ids: Sample ids, n of them.
        z: Representations, float32 (n, F).
        out: File to write, complete or not at all; earlier ones are replaced.
        inputs: Files and folders that were read, which are not replaced.

    Raises:
        DataError: If the file has another ending, or pyarrow is missing for .parquet.
        RunError: If it cannot be written.

    Example:
        >>> write_embeddings(["a", "b"], np.eye(2, dtype=np.float32), Path("embeddings.npz"))  # doctest: +SKIP
    """
    check_embedding_file(out, inputs)
    with output_file(out, overwrite=True, inputs=inputs) as temporary:
        if out.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, ids=np.array(ids, dtype=np.str_), features=z)
        elif out.suffix == ".csv":
            frame = pd.DataFrame(z, columns=[f"f{i}" for i in range(z.shape[1])])
            frame.insert(0, "id", list(ids))
            frame.to_csv(temporary, index=False)
        else:
            try:
                pd.DataFrame({"id": list(ids), "embedding": list(z)}).to_parquet(temporary, index=False)
            except ImportError as error:
                raise DataError(f"writing {out} needs pyarrow: pip install 'ssld[parquet]'") from error
