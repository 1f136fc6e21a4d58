"""What a run remembers of the shards that it was fitted to: their digests, by name, and which samples it held out.

The fingerprint of a pool cannot say which of its shards is another one now; the list in `shards.json` can. `held_out.csv` has
the samples that the recipe held out for testing, which no funnel over features may choose.
"""

import os
from pathlib import Path

import pandas as pd

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.marks import ShardMark, changed_shards
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.storage import atomic_write_text

__all__ = ["HELD_OUT", "SHARDS", "held_out_ids", "record_shards", "shard_changes"]

SHARDS, HELD_OUT = "shards.json", "held_out.csv"
"""Names of the two files in a run folder; only runs on shards have them."""


class _Record(State):
    """Content of :data:`SHARDS`."""

    shards: tuple[ShardMark, ...]


def record_shards(folder: Path, pool: Pool, test_fraction: float) -> None:
    """Write what a run remembers of its shards; nothing for a pool of other origin.

    Args:
        folder: Run folder.
        pool: Images of the run.
        test_fraction: Fraction of the labeled samples that was held out.

    Raises:
        RunError: If the folder cannot be written.
    """
    if not pool.shards:
        return
    atomic_write_text(folder / SHARDS, _Record(shards=pool.shards).model_dump_json() + "\n")
    if test_fraction:
        atomic_write_text(folder / HELD_OUT, pd.DataFrame({"id": pool.ids[pool.is_test]}).to_csv(index=False))


def shard_changes(folder: Path, pool: Pool) -> list[str]:
    """Differences between the shards of a pool and those that a run remembers, a phrase each; empty if there are none.

    Args:
        folder: Run folder.
        pool: Images of the run, as they are now.

    Raises:
        StateError: If the list of shards is damaged.

    Example:
        >>> shard_changes(Path("runs/R"), pool)  # doctest: +SKIP
        ['1 of 20 shards has another content: shards/shard-00003.parquet']
    """
    if not os.path.lexists(folder / SHARDS):
        return []
    record = read_state(folder / SHARDS, _Record, remedy="remove it: shards that have changed are then not named")
    return changed_shards(record.shards, pool.shards)


def held_out_ids(folder: Path) -> list[str]:
    """Samples of shards that a run held out for testing; empty if it held out none, or was not fitted to shards."""
    return read_table(folder / HELD_OUT).column("id") if os.path.lexists(folder / HELD_OUT) else []
