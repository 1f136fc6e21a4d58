"""State of a store at one moment, read once for everything that answers one request."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.class_changes import class_rows_in
from ssl_diffusion.annotation.store.class_examples import chosen_in
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.labels import as_array, label_in
from ssl_diffusion.annotation.store.leases import last_round_in, pending_in
from ssl_diffusion.annotation.store.queries import counts_in
from ssl_diffusion.annotation.store.store import Store

__all__ = ["StoreState", "read_state"]

Labels = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Positions, increasing, (n,), and class numbers, (n,) or, in a multi-label store, 0/1 for every class by number, (n, K)."""


@dataclass(frozen=True)
class StoreState:
    """State of a store, as one transaction saw it.

    Attributes:
        classes: Class names by number, also of classes that are no longer in use.
        in_use: Numbers of the classes in use, increasing.
        keys: Keys of the keyboard by class name, as annotators chose them.
        targets: Numbers of labels that are wanted, 0 for any, by class name, as far as they were set for single classes.
        examples: Positions of the examples that were chosen, by the number of their class.
        labels: All labeled samples.
        roles: Roles of the samples ("pool", "audit" or "test"), (n,).
        counts: Number of samples, see :func:`ssl_diffusion.annotation.store.queries.counts`.
        last_round: The last round (columns of `rounds`); None before the first.
        waiting: Positions in the queue that need votes, in order, (m,).
    """

    classes: tuple[str, ...]
    in_use: tuple[int, ...]
    keys: dict[str, str]
    targets: dict[str, int]
    examples: dict[int, list[int]]
    labels: Labels
    roles: NDArray[np.str_]
    counts: dict[str, int]
    last_round: dict[str, Any] | None
    waiting: NDArray[np.int64]

    def labels_of(self, role: str) -> Labels:
        """Labeled samples with a role; "pool" is what models are trained on."""
        chosen = self.roles == role
        return self.labels[0][chosen], self.labels[1][chosen]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes in use, by number."""
        return tuple(self.classes[k] for k in self.in_use)

    @property
    def training(self) -> Labels:
        """Labeled samples that models are trained on."""
        return self.labels_of("pool")


@retried
def read_state(store: Store) -> StoreState:
    """Read the state of a store in one transaction."""
    n, current, samples = len(store.ids), schema.current.c, schema.samples.c
    labeled = (
        select(current.position, current["class"], current.classes, samples.role)
        .join(schema.samples, samples.position == current.position)
        .where(current.status == "labeled")
        .order_by(current.position)
    )
    with store.reading() as connection:
        rows = connection.execute(labeled).all()
        known = class_rows_in(connection)
        given = as_array((label_in(row[1], row[2]) for row in rows), len(known), multilabel=store.multilabel)
        return StoreState(
            classes=tuple(row.name for row in known),
            in_use=tuple(row.number for row in known if row.state is None),
            keys={row.name: row.key for row in known if row.key is not None and row.state is None},
            targets={row.name: row.target for row in known if row.target is not None and row.state is None},
            examples=chosen_in(connection),
            labels=(np.array([row[0] for row in rows], dtype=np.int64), given),
            roles=np.array([row[3] for row in rows], dtype=np.str_),
            counts=counts_in(connection, n),
            last_round=last_round_in(connection),
            waiting=pending_in(connection),
        )
