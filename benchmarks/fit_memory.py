"""Peak memory of a command, by default of a short `ssld fit` on Fashion-MNIST.

    python benchmarks/fit_memory.py
    python benchmarks/fit_memory.py -- ssld fit --data photos/ --labeled 200 --no-cache --out OUT

`OUT` in the command stands for a temporary folder. The memory of the process and all its descendants is polled.
"""

import argparse
import shlex
import tempfile
from pathlib import Path

from common import RESULTS, markdown_table, provenance, run_measured, ssld, write_csv

_DEFAULT = "ssld fit --labeled 4000 --steps 20 --pretrain-steps 20 --no-cache --out OUT"


def main() -> None:
    """Measure, print Markdown, append to the CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", nargs="*", help=f"what to run, after --; default: {_DEFAULT}")
    parser.add_argument("--interval", type=float, default=0.05, help="seconds between polls")
    parser.add_argument("--out", type=Path, default=RESULTS / "fit_memory.csv")
    args = parser.parse_args()
    words = args.command or shlex.split(_DEFAULT)
    facts = provenance()
    with tempfile.TemporaryDirectory() as scratch:
        replaced = {"ssld": ssld(), "OUT": str(Path(scratch) / "out")}
        cost = run_measured([replaced.get(word, word) for word in words], args.interval)
    row = {
        "command": shlex.join(words),
        "peak_mib": cost.peak_mib,
        "peak_tree_mib": cost.peak_tree_mib,
        "seconds": cost.seconds,
    }
    print(markdown_table([row]))
    write_csv(args.out, [row | facts], append=True)


if __name__ == "__main__":
    main()
