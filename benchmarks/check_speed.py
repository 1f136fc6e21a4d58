"""How long `ssld check RUN` takes: CPU seconds of one core, by stage.

    python benchmarks/check_speed.py --run RUN --images 10000        # RUN: a fit of a published data set, such as Fashion-MNIST
    python benchmarks/check_speed.py --table

Images of the run, drawn at random, are checked with its model, from the pool in memory to the files of the page, with the
options of the command (one noise level, two pictures of confused classes). One row a run, in results/check_speed.csv.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, markdown_table, provenance

from ssl_diffusion.curation.check import check_collection
from ssl_diffusion.curation.collection import collect_pool
from ssl_diffusion.curation.page import write_check
from ssl_diffusion.curation.pair_pictures import draw_pairs
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.training.data_changes import load_run_pool

CSV = RESULTS / "check_speed.csv"


def measure(path: Path, n: int, pictures: int) -> None:
    run = load_run(path, "cpu")
    pool = load_run_pool(run)
    if not len(pool) >= n > 0:
        raise SystemExit(f"{path} has {len(pool):,} images: --images {n} are not to be had")
    pool = pool.select(np.random.default_rng(0).permutation(len(pool)) < n)
    began = [time.process_time()]

    def lap() -> float:
        began.append(time.process_time())
        return round(began[-1] - began[-2], 1)

    collection = collect_pool(run, pool)
    row: dict[str, object] = {"images": n, "precision": run.precision, "model_s": lap()}
    result = check_collection(collection)
    row["findings_s"] = lap()
    drawn = draw_pairs(result, pictures)
    row |= {"pictures": sum(bool(picture.png) for picture in drawn), "pictures_s": lap()}
    with tempfile.TemporaryDirectory() as folder:
        write_check(result, Path(folder) / "check", pictures=drawn)
    row["page_s"] = lap()
    row["all_s"] = round(began[-1] - began[0], 1)
    append_row(CSV, row | provenance())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pictures", type=int, default=2, help="pairs of classes to draw")
    parser.add_argument("--table", action="store_true", help="only print the rows that are there")
    arguments = parser.parse_args()
    if arguments.run is not None and not arguments.table:
        measure(arguments.run, arguments.images, arguments.pictures)
    print(markdown_table(pd.read_csv(CSV).drop(columns=["torch", "processor"]).to_dict("records")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
