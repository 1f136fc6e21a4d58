"""Options that several commands share: each has one name and one help text."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

import typer

from ssl_diffusion.settings import AtLeastOne, Count, Seed, Threads, bounds

from .output import Output, needing

if TYPE_CHECKING:
    from ssl_diffusion.inference.engines.ray_start import RayStart

__all__ = [
    "ACCELERATOR",
    "BACKBONE",
    "CACHE_DIR",
    "DATASET",
    "FEATURES",
    "IMAGE_ROOT",
    "METRIC",
    "OVERWRITE",
    "PRECISION",
    "SETTINGS",
    "SKIP_BAD",
    "THREADS",
    "DebugOption",
    "ImportOptions",
    "JsonOption",
    "OverwriteOption",
    "QuietOption",
    "SeedOption",
    "ServerOptions",
    "ShardOptions",
    "ThreadsOption",
    "backbone_name",
    "given_options",
    "number",
]


def number(kind: Any, *names: str, **more: Any) -> Any:
    """A numeric option; NaN is refused, and the help page shows the range.

    Args:
        kind: Type with a range, of :mod:`ssl_diffusion.settings`.
        names: Names of the option; without any, the parameter's.
        more: Other arguments of `typer.Option`.
    """
    low, high = bounds(kind)
    return typer.Option(*names, min=low, max=high, callback=_no_nan, **more)


def _no_nan(value: Any) -> Any:
    if value != value:  # a range does not refuse it: every comparison with it is false
        raise typer.BadParameter("nan is not a number")
    return value


ACCELERATOR = typer.Option(help="Device to compute on: auto, cpu, cuda or mps.")
PRECISION = typer.Option(help="Numeric precision: auto, bf16 or fp32.")
THREADS = number(Threads, help="Processor threads; 0 uses all cores.")
DATASET = typer.Option(help="Named data set; see `ssld datasets`. Default: fashion-mnist.")
SETTINGS = typer.Option("--set", help="Recipe setting to change: section.name=value. May be repeated.")
CACHE_DIR = typer.Option(help="Cache folder of downloads and denoisers. Default: ~/.cache/ssld.")
IMAGE_ROOT = typer.Option(help="Folder that paths in the CSV file are relative to. Default: the folder of the CSV file.")
METRIC = typer.Option(
    help="Figure that choices and reports go by: accuracy (default), balanced-accuracy, macro-f1, auroc or average-precision."
)
BACKBONE = typer.Option(
    help="Pretrained network (see `ssld backbones`), a .pt2 file, auto, or none: the denoiser alone, in a check the pixels."
)
FEATURES = typer.Option(help="Features of your own by sample id (.npz, .csv, .parquet), as the backbone.")
SKIP_BAD = typer.Option("--skip-bad", help="Skip unreadable images.")
OVERWRITE = typer.Option("--overwrite", help="Replace an earlier output in the same place.")

ThreadsOption = Annotated[int, THREADS]
OverwriteOption = Annotated[bool, OVERWRITE]
SeedOption = Annotated[int, number(Seed, help="Random seed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
DebugOption = Annotated[
    bool, typer.Option("--debug", envvar="SSLD_DEBUG", help="Show where in the program an unforeseen error was raised.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars and no log messages.")]


def backbone_name(backbone: str | None, features: Path | None) -> str | None:
    """The backbone that --backbone or --features names, files by their whole path; None if neither is given."""
    from ssl_diffusion.errors import RecipeError

    if features is not None:
        if backbone is not None:
            raise RecipeError("give either --backbone or --features, not both")
        return f"precomputed:{features.resolve()}"
    if backbone is not None and backbone.endswith(".pt2") and ":" not in backbone:
        return str(Path(backbone).resolve())
    return backbone


def given_options(group: Any) -> list[str]:
    """Flags of the options of a group, a dataclass, that have another value than their default.

    Args:
        group: Values of the options.
    """
    given = (f for f in fields(group) if getattr(group, f.name) not in (f.default, []))
    return [_flag(f.name, get_args(f.type)[1]) for f in given]


def _flag(name: str, info: Any) -> str:
    """The flag of an option: the declared one, of two that for "yes"; else that of its name."""
    declared = (info.default, *(info.param_decls or ()))  # Typer keeps the first one as the default
    flags = (each for each in declared if isinstance(each, str) and each.startswith("--"))
    return next(flags, f"--{name.replace('_', '-')}").partition("/")[0]


@dataclass(frozen=True)
class ShardOptions:
    """How a pool in Parquet or tar shards is read."""

    panel: ClassVar[str] = "Shards"

    id_column: Annotated[str, typer.Option(help="Column of sample ids. Default: id, or another usual name.")] = ""
    image_column: Annotated[
        str, typer.Option(help="Column of images; in tar files their ending. Default: image, or another usual name.")
    ] = ""
    engine: Annotated[str, typer.Option(help="Where shards are read: local, or ray (extra: ray).")] = "local"
    address: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster, or auto. Default: Ray is started here.")
    ] = None
    workers: Annotated[int | None, number(AtLeastOne, help="Actors of Ray. Default: one a core, or one an accelerator.")] = None

    def check(self, shards: bool) -> None:
        """Refuse options that have no effect, and engines that there are not."""
        from ssl_diffusion.errors import RecipeError, nearest_names, shown

        if self.engine not in ("local", "ray"):
            raise RecipeError(f"--engine cannot be {shown(self.engine)}; {nearest_names(self.engine, ('local', 'ray'))}")
        if not shards and (given := given_options(self)):
            raise RecipeError(f"{given[0]} is for Parquet or tar shards: leave it out")
        if self.engine == "local" and (given := [flag for flag in given_options(self) if flag in ("--address", "--workers")]):
            raise RecipeError(f"{given[0]} has no effect without --engine ray: leave it out")

    @cached_property
    def ray(self) -> "RayStart":
        """Ray, which is started when it is first asked for."""
        from ssl_diffusion.inference.engines.ray_start import RayStart

        return RayStart(self.address, self.workers)

    def begin(self) -> None:
        """Start Ray, if it is asked for, while the command opens its run."""
        if self.engine == "ray":
            _ = self.ray

    def end(self) -> None:
        """Stop Ray, if it is still there."""
        if "ray" in self.__dict__:
            self.ray.stop()


@dataclass(frozen=True)
class ServerOptions:
    """How a job is served, whether to a browser or to Label Studio."""

    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; any address that other machines can reach needs --token (pages: or --accounts)."
        ),
    ] = "127.0.0.1"
    token: Annotated[
        str | None,
        typer.Option(envvar="SSLD_TOKEN", help="Secret that clients must send, at least 16 characters.", show_envvar=True),
    ] = None
    blind: Annotated[bool, typer.Option("--blind", help="Hide the model's predictions from annotators.")] = False
    refit_every: Annotated[int | None, number(Count, help="New labels that start a refit; 0: never. Default: the job's.")] = (
        None
    )

    def serve(self, app: Any, port: int, what: str, output: Output, *, browser: bool = False) -> None:
        """Say where an application is, and serve it until Ctrl-C.

        Args:
            app: Application to serve.
            port: Port of the server.
            what: Name of the server in what is printed.
            output: Channel to the user.
            browser: Whether to open the address in the browser.

        Raises:
            SSLDError: If nothing can be served there, as on a port that another program has.
        """
        with needing("annotate"):
            import uvicorn

        self._check_port(port)
        host = f"[{self.host}]" if ":" in self.host else self.host
        url = f"http://{host}:{port}/"
        output.result({"url": url}, f"{what:<15} {url}   (stop with Ctrl-C)")
        if browser:
            import threading
            import webbrowser

            threading.Timer(1.0, webbrowser.open, [url]).start()
        # No access log: addresses may hold ids, and who looked at what is nobody's business.
        uvicorn.run(app, host=self.host, port=port, log_level="warning", access_log=False)

    def _check_port(self, port: int) -> None:
        """Refuse a place that cannot be listened on; uvicorn would end the process with a line of its log."""
        import os
        import socket

        from ssl_diffusion.errors import SSLDError

        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as tried:
                if os.name != "nt":  # as servers do; there it would allow a port that is taken
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise SSLDError(
                f"nothing can be served on {self.host}, port {port} ({why}): choose another --port or --host"
            ) from None


@dataclass(frozen=True)
class ImportOptions:
    """What labels from elsewhere may change in a job."""

    add_class: Annotated[bool, typer.Option("--add-class", help="Add classes that the job does not have.")] = False
    final: Annotated[bool, typer.Option("--final", help="Make these labels final, whatever other annotators say.")] = False
