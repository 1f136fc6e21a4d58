"""What this machine can do, and how to use it: processor features, precision, threads, installed plug-ins."""

import ctypes
import json
import logging
import math
import mmap
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from ssl_diffusion.errors import RecipeError, SSLDError, nearest_names, shown

__all__ = [
    "Device",
    "Machine",
    "bind_threads",
    "convolution_times",
    "describe_machine",
    "has_fast_bf16",
    "keep_freed_memory",
    "load_plugins",
    "memory_bytes",
    "package_versions",
    "read_ahead",
    "resolve_accelerator",
    "resolve_precision",
    "source_commit",
    "usable_cores",
]

_log = logging.getLogger(__name__)
_WORTH = 1.2
_HOPELESS = 2.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bind_threads(threads: int = 0) -> None:
    """Bind torch's threads to cores; only has an effect before torch is imported.

    Two unbound threads on two cores slow down several times over as soon as another process runs (the OpenMP barrier
    waits for the thread that lost its core). Binding is left out when fewer threads than cores are used: several
    such processes side by side would all be bound to the same first cores. Environment variables that are set already
    are respected, a smaller OMP_NUM_THREADS too.
    """
    cores = usable_cores()
    threads = threads or cores
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if 1 < threads == cores and os.environ["OMP_NUM_THREADS"] == str(threads):
        os.environ.setdefault("OMP_PROC_BIND", "true")
        os.environ.setdefault("OMP_PLACES", "cores")


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB that it has freed, for what it allocates next; with glibc only.

    By itself glibc returns the end of the heap to the system from 64 MiB on. A network frees and allocates its maps in every
    batch, so that tens of thousands of pages are given back, asked for again and filled with zeros each time. That takes up to
    a sixth of the time of reading, and a twentieth of training. Thresholds in the environment are respected.

    Returns:
        Whether the threshold is set.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    allocator = ctypes.CDLL(None)
    # Setting either one stops glibc from moving both, so that the other gets the largest value that glibc itself would reach.
    done = allocator.mallopt(_M_MMAP_THRESHOLD, 2**25) and allocator.mallopt(_M_TRIM_THRESHOLD, 2**28)
    return bool(done)


def read_ahead(address: int, n_bytes: int) -> bool:
    """Let the kernel begin to read a stretch of a mapped file, and go on without waiting for it.

    A page that is missed brings its neighbours with it, megabytes on some disks, since programs mostly read on; whoever takes
    a few kilobytes from anywhere in a large file asks for these alone, and beforehand.

    Args:
        address: Address of the first byte.
        n_bytes: Length in bytes.

    Returns:
        Whether the kernel could be asked.
    """
    if not hasattr(mmap, "MADV_WILLNEED"):
        return False
    start = address - address % mmap.PAGESIZE
    return _madvise()(start, address + n_bytes - start, mmap.MADV_WILLNEED) == 0


@lru_cache(maxsize=1)
def _madvise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    asked: Callable[[int, int, int], int] = function
    return asked


@lru_cache(maxsize=1)
def convolution_times() -> dict[str, float]:
    """Seconds of one 3x3 convolution with its backward pass, by precision, "fp32" and "bf16"; measured once, in milliseconds.

    What a processor says that it has does not tell which is faster: with AVX512-BF16 alone, bf16 is slower in a network on some
    and half as fast again on others, and without either of its instruction sets ten times as slow. It is timed as networks run
    it, casts of images and weights included, on one thread and by its processor time: by the clock on the wall the slower one
    would be interrupted more often on a busy core. Of several runs the shortest is taken.
    """
    import torch
    from torch.nn.grad import conv2d_input, conv2d_weight

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 64, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, generator=generator)
    threads, best = torch.get_num_threads(), {"fp32": math.inf, "bf16": math.inf}
    torch.set_num_threads(1)

    def seconds(precision: str) -> float:
        start = time.thread_time()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = x.to(dtype), weight.to(dtype)
        y = torch.nn.functional.conv2d(a, b, padding=1)
        conv2d_input(x.shape, b, y, padding=1)  # type: ignore[no-untyped-call]
        conv2d_weight(a, weight.shape, y, padding=1)  # type: ignore[no-untyped-call]
        return time.thread_time() - start

    try:
        with torch.inference_mode():
            for precision in best:
                seconds(precision)  # the library chooses and compiles its kernels
            for _ in range(5):
                best = {precision: min(found, seconds(precision)) for precision, found in best.items()}
                if best["bf16"] > _HOPELESS * best["fp32"]:
                    break
    finally:
        torch.set_num_threads(threads)
    return best


def has_fast_bf16() -> bool:
    """Whether networks are faster in bf16 on this processor: whether a convolution is at least :data:`_WORTH` times as fast.

    Elsewhere in a network bf16 gains less, and sometimes nothing. On a processor whose convolution is 1.4 to 1.9 times as fast,
    steps and readings of the recipes for photos and Fashion-MNIST are 1.4 to 1.8 times as fast, and those of digits 1.1 to 1.2
    (benchmarks/README.md); with AMX it is more, and where bf16 is emulated 0.1 to 0.4.
    """
    found = convolution_times()
    return found["fp32"] > _WORTH * found["bf16"]


def resolve_precision(precision: str, accelerator: str) -> str:
    """Turn "auto" into "bf16" or "fp32" for an accelerator ("cpu", "cuda", "mps")."""
    import torch

    if precision not in ("auto", "bf16", "fp32"):
        raise RecipeError(f"no precision {shown(precision)}; {nearest_names(precision, ('auto', 'bf16', 'fp32'))}")
    if precision != "auto":
        return precision
    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if accelerator == "cpu" and has_fast_bf16() else "fp32"


def resolve_accelerator(accelerator: str) -> str:
    """Turn "auto" or "gpu" into "cuda", "mps" or "cpu", whatever this machine has; refuse what it has not."""
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator in ("auto", "gpu"):
        return next(name for name, available in here.items() if available)
    if accelerator not in here:
        raise RecipeError(f"no accelerator {shown(accelerator)}; {nearest_names(accelerator, ('auto', *here))}")
    if not here[accelerator]:
        raise RecipeError(f"torch finds no {accelerator} device on this machine; leave out --accelerator, or use auto")
    return accelerator


@dataclass(frozen=True)
class Device:
    """Where a model computes, and in which precision.

    Args:
        accelerator: "cpu", "cuda" or "mps".
        precision: "bf16" or "fp32".
    """

    accelerator: str
    precision: str

    @classmethod
    def resolve(cls, accelerator: str = "auto", precision: str = "auto") -> "Device":
        """The device that was asked for; "auto" is the best that this machine has.

        Args:
            accelerator: "auto", "cpu", "cuda", "gpu" (any but the processor, if there is one) or "mps".
            precision: "auto", "bf16" or "fp32".

        Raises:
            RecipeError: If this machine has no such accelerator, or a name is unknown.
        """
        resolved = resolve_accelerator(accelerator)
        return cls(resolved, resolve_precision(precision, resolved))


@dataclass(frozen=True)
class Machine:
    """Facts for `ssld doctor` and for the metrics of a run."""

    processor: str
    cores: int
    bf16: bool
    convolution_ms: dict[str, float]
    gpus: tuple[str, ...]
    memory_gib: float
    versions: dict[str, str]


def describe_machine() -> Machine:
    """Look at this machine."""
    import torch

    return Machine(
        processor=_processor_name(),
        cores=usable_cores(),
        bf16=has_fast_bf16(),
        convolution_ms={name: round(1000 * seconds, 3) for name, seconds in convolution_times().items()},
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        memory_gib=round(memory_bytes() / 2**30, 1),
        versions=package_versions(),
    )


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Memory of this machine in bytes; 0 if that cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's figures."""
    names = ("ssld", "torch", "torchvision", "numpy", "scikit-learn", "lightning-fabric", "safetensors")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def source_commit() -> str | None:
    """Commit of the source tree this program runs from or was installed from; None if that is not a git checkout.

    A tree with uncommitted changes gets "+changes" appended.
    """
    here = Path(__file__).resolve().parent.parent
    if (here / "setup.cfg").exists():
        return _git_commit(here)
    try:
        text = distribution("ssld").read_text("direct_url.json")  # PEP 610: written by pip for local and VCS installs
    except PackageNotFoundError:
        return None
    origin = json.loads(text) if text else {}
    if "vcs_info" in origin:
        return str(origin["vcs_info"]["commit_id"])
    url = urlparse(origin.get("url", ""))
    return _git_commit(Path(url2pathname(url.path))) if url.scheme == "file" else None


def _git_commit(folder: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        program = ("--", ".", ":(exclude)benchmarks/results")  # a benchmark that adds a figure does not change the program
        changes = git("status", "--porcelain", "--untracked-files=no", *program)
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


@lru_cache
def load_plugins(group: str) -> Mapping[str, str]:
    """Import what installed distributions offer under a group of entry points; once a process.

    An entry point names a module, or something in one; what the module offers registers itself on import. One that cannot be
    imported is reported in the log and breaks nothing else.

    Args:
        group: Group of entry points, such as "ssld.strategies".

    Returns:
        Broken entry points by name: one sentence that names the distribution and says what is wrong.
    """
    broken = {}
    for entry in entry_points(group=group):
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a distribution without a name"
            reason = " ".join(str(error).split())
            what = reason if isinstance(error, SSLDError) else f"{type(error).__name__}: {reason}"
            broken[entry.name] = f"{owner} offers {entry.name!r} as {entry.value}, which cannot be loaded ({what})"
            _log.warning("%s: repair or remove that distribution", broken[entry.name])
    return broken
