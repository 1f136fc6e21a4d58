"""The engine on Ray Data: shards are read by a pool of actors, on this machine or a cluster. Needs `pip install 'ssld[ray]'`.

A unit of work is a shard, and its result the part that the actor has written, whole or not at all. Shards and parts must be on
file systems that all machines see. An actor that dies is replaced, and its shard is read again; a job that dies goes on behind
its parts. Ray Data starts actors as there is work and room (autoscaling), and hands out no more shards than they can take
(backpressure).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError, RunError, SSLDError, first_line
from ssl_diffusion.inference.engines.ray_start import RayStart
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.inference.shard_parts import Kind, PartFacts, part_facts, part_name, write_part

__all__ = ["parts_on_ray"]

_ATTEMPTS = 4  # at a shard; Ray itself would give one that kills its actor to another one for ever
_CORES = 0.5  # of an actor; the tasks that list the shards need some, too


def parts_on_ray(
    run: Run,
    source: ShardSource,
    todo: Sequence[int],
    out: Path,
    kind: Kind,
    model: str,
    *,
    batch_size: int,
    address: str | None,
    workers: int | None,
    start: RayStart | None = None,
) -> Iterator[tuple[int, PartFacts]]:
    """Write parts on Ray, and give each with what its footer says, in the order in which they end.

    Args:
        run: Fitted model; actors open it by its folder.
        source: Shards.
        todo: Numbers of the shards to read.
        out: Folder of the parts.
        kind: Kind of the parts.
        model: Digest of the weights and the precision.
        batch_size: Images in a batch.
        address: Address of a running cluster, or "auto"; None starts Ray here and stops it in the end.
        workers: Number of actors; None for one a processor core or accelerator, as Ray finds them.
        start: Ray that was started with this address and these workers before; it is stopped in the end.

    Raises:
        SSLDError: If ray is not installed.
        RunError: If there is no cluster at the address, or a shard could not be read in several attempts.
        DataError: If an image cannot be read and the source does not skip it.
    """
    start = start or RayStart(address, workers)
    try:
        start.wait()
        yield from _parts(run, source, todo, out, kind, model, batch_size, workers)
    finally:
        start.stop()


def _parts(
    run: Run,
    source: ShardSource,
    todo: Sequence[int],
    out: Path,
    kind: Kind,
    model: str,
    batch_size: int,
    workers: int | None,
) -> Iterator[tuple[int, PartFacts]]:
    import ray
    import ray.data

    _hush()
    device = next(run.model.parameters()).device.type
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = int(resources.get("GPU" if device == "cuda" else "CPU", 1))
    most = max(1, min(workers or room, len(todo)))
    parts = {i: out / part_name(source.shards[i].place.stem, source.shards[i].digest) for i in todo}
    for part in parts.values():
        _attempts(part).unlink(missing_ok=True)  # of a command that was killed
    arguments = (str(run.path.resolve()), device, run.precision, source, str(out.resolve()), kind, model, batch_size)
    listed = ray.data.from_items([{"shard": int(i)} for i in todo], override_num_blocks=len(todo))
    pool: dict[str, Any] = {"min_size": 1, "max_size": most}
    if "initial_size" in signature(ray.data.ActorPoolStrategy).parameters:  # of later versions
        # All at once: they take seconds to start, and one after the other as the load is seen would keep cores waiting.
        pool["initial_size"] = most
    done = listed.map_batches(
        _Reader,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(**pool),
        num_cpus=_CORES,
        num_gpus=1 if device == "cuda" else 0,
    )
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise DataError(row["error"])
            part = parts[int(row["shard"])]
            facts = part_facts(part)
            if facts is None:
                raise RunError(f"{part} is not there after it was written: is the folder the same on all machines?")
            yield int(row["shard"]), facts
    except ray.exceptions.RayError as error:
        raise RunError(
            f"Ray could not read all shards ({first_line(error)}): run the command again, which keeps what is done"
        ) from error
    finally:
        for part in parts.values():
            _attempts(part).unlink(missing_ok=True)


def _attempts(part: Path) -> Path:
    """File beside a part that holds a byte for every actor that began it; gone when one has ended it."""
    return part.with_name(f".{part.name}.attempts")


def _hush() -> None:
    """Keep what Ray Data says of its plans off the screen; its files of logs have it, and errors are shown."""
    import ray

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
    with suppress(AttributeError):
        ray.data.DataContext.get_current().enable_progress_bars = False


class _Reader:
    """An actor: opens the run once, and writes the parts of the shards that it is given."""

    def __init__(
        self, run: str, device: str, precision: str, source: ShardSource, out: str, kind: Kind, model: str, batch_size: int
    ) -> None:
        self._run = load_run(run, device, precision)
        self._source, self._out, self._kind, self._model, self._batch_size = source, Path(out), kind, model, batch_size

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        errors = []
        for i in batch["shard"].tolist():
            shard = self._source.shards[i]
            path = self._out / part_name(shard.place.stem, shard.digest)
            try:
                _count(path, shard.place.name)
                write_part(self._run, self._source, i, path, self._kind, self._model, batch_size=self._batch_size)
                errors.append("")
            except SSLDError as error:
                errors.append(str(error))
            _attempts(path).unlink(missing_ok=True)
        return {"shard": batch["shard"], "error": errors}


def _count(part: Path, shard: str) -> None:
    """Note that an actor begins a part; raise :class:`RunError` if as many as may have done so, and none has ended it."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _attempts(part).open("ab") as file:
            file.write(b".")
            begun = file.tell()
    except OSError as error:
        raise RunError(f"{part.parent} cannot be written: {error.strerror}") from error
    if begun > _ATTEMPTS:
        raise RunError(f"{shard} has ended {_ATTEMPTS} actors that read it, as by too little memory: see the logs of Ray")
