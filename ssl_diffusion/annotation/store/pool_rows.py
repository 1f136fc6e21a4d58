"""State of all samples at once, as arrays by position: what sheets, maps and searches filter by."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.labels import label_in
from ssl_diffusion.annotation.store.store import Store

__all__ = ["STATUSES", "PoolRows", "read_rows"]

STATUSES = ("open", "partial", "labeled", "disputed", "skipped")


@dataclass(frozen=True)
class PoolRows:
    """State of the samples of a job by position.

    Attributes:
        status: Indices into :data:`STATUSES`, int8 (N,).
        label: Class numbers of labeled samples, -1 for others, int32 (N,); -1 for all of a multi-label store.
        flagged: Marks for a second look, (N,).
        round: Numbers of the last rounds that asked for the samples, 0 for none, int32 (N,).
        free: Whether an annotator may be given the sample: it is in the pool, needs votes, and no other tab has it; (N,).
        sets: Numbers of the classes of labeled samples by position; only of a multi-label store.
    """

    status: NDArray[np.int8]
    label: NDArray[np.int32]
    flagged: NDArray[np.bool_]
    round: NDArray[np.int32]
    free: NDArray[np.bool_]
    sets: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def has_status(self, name: str) -> NDArray[np.bool_]:
        """Whether samples have a status, one of :data:`STATUSES`, (N,)."""
        found: NDArray[np.bool_] = self.status == STATUSES.index(name)
        return found


@retried
def read_rows(store: Store, annotator: str = "", holder: str = "") -> PoolRows:
    """Read the state of all samples.

    Args:
        store: Store of the job.
        annotator: Name of the annotator for whom samples are free.
        holder: Tab or program of the annotator, whose own samples are free, too.
    """
    n = len(store.ids)
    status, label = np.zeros(n, dtype=np.int8), np.full(n, -1, dtype=np.int32)
    flagged, rounds, taken = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.bool_)
    sets: dict[int, tuple[int, ...]] = {}
    current, votes, leases = schema.current.c, schema.votes.c, schema.leases.c
    batch = select(schema.batch.c.position, func.max(schema.batch.c.round)).group_by(schema.batch.c.position)
    with store.reading() as connection:
        query = select(current.position, current.status, current["class"], current.flagged, current.classes)
        for row in connection.execute(query):
            status[row[0]] = STATUSES.index(row[1])
            found = label_in(row[2], row[4])
            if isinstance(found, tuple):
                sets[row[0]] = found
            elif found is not None:
                label[row[0]] = found
            flagged[row[0]] = row[3]
        for position, number in connection.execute(batch):
            rounds[position] = number
        own = connection.execute(select(votes.position).where(votes.annotator == annotator)).scalars().all()
        others = select(leases.position).where(leases.holder != holder, leases.until > time.time())
        taken[[*own, *connection.execute(others).scalars()]] = True
    free = ~taken & np.isin(status, [STATUSES.index("open"), STATUSES.index("partial")])
    free &= np.isin(np.arange(n), store.of_role("pool"))
    return PoolRows(status, label, flagged, rounds, free, sets)
