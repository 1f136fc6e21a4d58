"""Images scored a second, end to end: choosing 100 of 60,000 Fashion-MNIST images, here and in baal and scikit-activeml.

    pip install '.[bench]' baal
    python benchmarks/query_speed.py --run runs/fashion-mnist-4000-s0
    QUERY_SPEED_IMAGES=10000 python benchmarks/query_speed.py --run runs/fashion-mnist-4000-s0       # of 10,000

All use the same network (encoder and head), the same images, batches of 256 and one thread, and run in turn, each in a process
of its own; timed is everything between loaded images and chosen rows, and ratios are those of processor time, which other
programs change less. ssld takes bf16 where that is faster; the others compute in fp32, as they do by themselves, and once more
under torch's autocast, as a user who knows of it would have them. baal reads through its ModelWrapper and has margin only;
scikit-activeml gets a classifier that runs the network, and for BADGE the same 512-dimensional representation that we use.
`counterfactual / margin` is what 100 counterfactually chosen samples take next to one scoring of the pool.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, markdown_table, provenance, write_csv

CSV = RESULTS / "query_speed.csv"
N, BATCH = 100, 256
IMAGES = int(os.environ.get("QUERY_SPEED_IMAGES", "60000"))
CASES = {
    "ssld margin": "margin",
    "ssld margin, fp32": "margin",
    "baal margin": "margin",
    "baal margin, bf16": "margin",
    "scikit-activeml margin": "margin",
    "scikit-activeml margin, bf16": "margin",
    "ssld badge": "badge",
    "scikit-activeml badge": "badge",
    "scikit-activeml badge, bf16": "badge",
    "ssld counterfactual": "counterfactual",
}


def load(path: Path, precision: str) -> Any:
    """The run, its pool, and the positions of unlabeled and labeled training images; of the unlabeled only the first IMAGES."""
    import torch

    from ssl_diffusion.data.loading import load_pool
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.training.run_folder import RunFolder

    torch.set_num_threads(1)
    run, folder = load_run(path, "cpu", precision), RunFolder(path)
    pool = load_pool(folder.recipe().data)
    labeled = folder.labeled(pool)
    known = pool.positions(labeled.train) if labeled is not None else np.zeros(0, dtype=np.int64)
    pool = pool.select(np.concatenate([np.setdiff1d(pool.train, known)[:IMAGES], known]))
    known = np.arange(len(pool) - len(known), len(pool))
    return run, pool, np.setdiff1d(pool.train, known), known


def ours(path: Path, strategy: str, precision: str) -> Callable[[], Any]:
    from ssl_diffusion.acquisition import query

    run, pool, _, _ = load(path, precision)
    return lambda: query(run, pool, N, strategy, keep_scores=False).ids


def autocast(bf16: bool) -> Any:
    """What a user of another tool writes around a network for bf16; without it nothing changes."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def baal_margin(path: Path, bf16: bool) -> Callable[[], Any]:
    import torch
    from baal.active.heuristics import Margin
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    run, pool, open_, _ = load(path, "fp32")

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = run.model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with autocast(bf16):
                return self.model.classify(x).float().softmax(dim=1)

    class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(open_)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.from_numpy(pool.images[open_[i]]).float() / 127.5 - 1, 0

    def choose() -> Any:
        wrapper = ModelWrapper(Head(), TrainingArgs(batch_size=BATCH, use_cuda=False, workers=0))
        with torch.inference_mode():
            predictions = wrapper.predict_on_dataset(Images(), iterations=1, verbose=False)
        return open_[Margin()(predictions[..., 0] if predictions.ndim == 3 else predictions)[:N]]

    return choose


def activeml(path: Path, strategy: str, bf16: bool) -> Callable[[], Any]:
    import torch
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge, UncertaintySampling

    from ssl_diffusion.inference.embedding import embed as read

    run, pool, _, known = load(path, "fp32")

    class Network(SkactivemlClassifier):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Network":
            self._validate_data(X, y)
            return self

        def predict_proba(self, X: Any, embed: bool = False) -> Any:
            images = X.reshape(-1, *run.image_shape)
            if embed:
                found = read(run.model, images.astype(np.uint8), precision="bf16" if bf16 else "fp32")
                return found.probabilities, found.representation
            parts = []
            with torch.inference_mode(), autocast(bf16):
                for i in range(0, len(images), BATCH):
                    x = torch.from_numpy(images[i : i + BATCH]).float() / 127.5 - 1
                    parts.append(run.model.classify(x).float().softmax(dim=1).numpy())
            return np.concatenate(parts)

    X = pool.images[pool.train].reshape(len(pool.train), -1)
    y = np.full(len(X), np.nan)
    rows = np.searchsorted(pool.train, known)
    y[rows] = pool.labels[known]
    clf = Network(classes=range(len(run.classes))).fit(X[rows], y[rows])
    if strategy == "badge":
        return lambda: Badge(clf_embedding_flag_name="embed", random_state=0).query(X, y, clf, fit_clf=False, batch_size=N)
    sampling = UncertaintySampling(method="margin_sampling", random_state=0)
    return lambda: sampling.query(X, y, clf, fit_clf=False, batch_size=N)


def run_case(case: str, path: Path) -> None:
    """One measurement; printed as JSON."""
    strategy = CASES[case]
    if case.startswith("baal"):
        choose = baal_margin(path, case.endswith("bf16"))
    elif case.startswith("scikit"):
        choose = activeml(path, strategy, case.endswith("bf16"))
    else:
        choose = ours(path, strategy, "fp32" if case.endswith("fp32") else "auto")
    began, cpu = time.perf_counter(), time.process_time()
    chosen = choose()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert len(set(map(str, chosen))) == N
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of Fashion-MNIST")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(arguments.case, arguments.run)
        return
    _, _, open_, _ = load(arguments.run, "fp32")
    found: dict[str, list[dict[str, float]]] = {case: [] for case in arguments.cases}
    for _ in range(arguments.rounds):
        for case, results in found.items():
            command = [sys.executable, __file__, "--run", str(arguments.run), "--case", case]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(case, results[-1], file=sys.stderr, flush=True)
    rows = []
    for case, results in found.items():
        base = found.get("ssld badge" if "badge" in case else "ssld margin", results)
        ratios = [r["cpu_seconds"] / b["cpu_seconds"] for r, b in zip(results, base, strict=True)]
        seconds = statistics.median(r["seconds"] for r in results)
        rows.append(
            {
                "case": case,
                "images_per_second": round(len(open_) / seconds, 1),
                "seconds": round(seconds, 2),
                "cpu_seconds": round(statistics.median(r["cpu_seconds"] for r in results), 2),
                "times_ours": round(statistics.median(ratios), 2),
                "peak_mib": round(max(r["peak_mib"] for r in results), 0),
            }
        )
    print(markdown_table(rows))
    write_csv(arguments.out, [row | {"images": len(open_), "rounds": arguments.rounds, **provenance()} for row in rows])


if __name__ == "__main__":
    main()
