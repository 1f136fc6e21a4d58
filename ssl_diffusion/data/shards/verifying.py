"""Shards read from end to end, to see whether they hold what their footers say."""

from ssl_diffusion.data.shards.digests import ContentDigest
from ssl_diffusion.data.shards.parquet import ParquetShard
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["verify_shards"]

_AT_ONCE = 1024


def verify_shards(source: ShardSource, *, progress: ProgressCallback | None = None) -> int:
    """Compare the digest in the footer of every packed shard with its ids and pixels.

    Args:
        source: Shards, which are read in full.
        progress: Callback for the number of images read.

    Returns:
        Number of shards that have such a digest; others only have their checksums, if any, compared.

    Raises:
        DataError: If a shard holds something else than its footer says, cannot be read, or has changed since it was found.

    Example:
        >>> verify_shards(ShardSource("shards/*.parquet"))  # doctest: +SKIP
        20
    """
    compared, done = 0, 0
    for i, shard in enumerate(source.shards):
        said = shard.facts.get("digest") if isinstance(shard, ParquetShard) and shard.facts.get("version") == 1 else None
        found = ContentDigest(source.image_shape)
        for batch in source.shard_batches(i, _AT_ONCE):
            if said:
                found.update(batch.ids.tolist(), batch.images)
            done += len(batch.ids)
            if progress is not None:
                progress(ProgressUpdate("verifying shards", done, len(source)))
        if said and found.hexdigest() != said:
            raise DataError(f"{shard.place.name} does not hold the ids and images that its footer says: pack it again")
        compared += bool(said)
    return compared
