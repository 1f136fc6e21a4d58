"""What a command says when it fails: one sentence and an exit code, whatever was raised.

Errors of the library and a machine that has run out of something are the user's to mend (exit code 2), Ctrl-C is 130, and
whatever nobody foresaw is a bug (exit code 70): its traceback goes to a report, which holds no secret, so that it can be sent.
"""

import errno
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import typer

__all__ = ["ARGUMENTS", "UNFORESEEN", "Failure", "debugging", "failure_of", "usage_failure"]

UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h

# Words of the command line that is running, the program's name left out.
ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("ARGUMENTS", default=())

_SECRET_OPTIONS = ("--token", "--api-key", "--password")
_SECRET_VARIABLES = re.compile(r"SSLD_.*|LABEL_STUDIO_API_KEY|PGPASSWORD|.*_(TOKEN|SECRET|PASSWORD|API_KEY)")
_IN_URLS = re.compile(r"(?<=://)[^\s/@'\"]+@")
_IN_QUERIES = re.compile(r"(?i)([?&](?:token|key|api_key|password|secret)=)[^\s&'\"]+")
_SHORTEST_SECRET = 4  # characters: "1" is a switch, and would blacken every figure
_LONGEST = 300  # characters of what is quoted
_OUT_OF = {
    errno.ENOSPC: "the disk is full: free some space, and repeat the command",
    errno.EDQUOT: "your quota of the disk is used up: free some space, and repeat the command",
    errno.EROFS: "the disk is read-only: choose another place to write to",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), and repeat the command",
    errno.ENFILE: "the machine has too many files open: close other programs, and repeat the command",
}
_MEMORY = "the memory is used up: take smaller batches or images (--batch-size, --size, --set training.batch_size=...)"


@dataclass(frozen=True)
class Failure:
    """How a command failed.

    Args:
        message: Sentence for the user.
        kind: Name of the kind of failure, for programs.
        code: Exit code.
    """

    message: str
    kind: str
    code: int

    @property
    def line(self) -> str:
        """The sentence as it is printed."""
        return f"ssld: {self.message}" if self.code == 130 else f"ssld: error: {self.message}"


def failure_of(error: BaseException) -> Failure:
    """What to say about an error; writes a report if nobody foresaw it.

    Args:
        error: Error that ended a command, not one that asks Typer to exit.
    """
    from ssl_diffusion.errors import Interrupted, SSLDError

    if isinstance(error, Interrupted):
        return Failure(str(error), "interrupted", 130)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", "interrupted", 130)
    if isinstance(error, SSLDError):
        return Failure(str(error), type(error).__name__, 2)
    if _is_out_of_memory(error):
        return Failure(_MEMORY, "MemoryError", 2)
    if isinstance(error, OSError) and error.errno in _OUT_OF:
        where = f" ({error.filename})" if error.filename else ""
        return Failure(f"{_OUT_OF[error.errno]}{where}", "OSError", 2)
    said = _shortened(" ".join(_without_secrets(str(error)).split()))
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    saved = _save_report(error)
    kept = f"a report to send us is in {saved}" if saved is not None else "no report could be saved; --debug shows where"
    return Failure(f"this is a bug of ssld ({what}); {kept}", type(error).__name__, UNFORESEEN)


def usage_failure(error: typer.BadParameter) -> Failure:
    """What to say about options and arguments that Typer refused.

    Args:
        error: Usage error of Typer, of any kind.
    """
    message = " ".join(error.format_message().split())
    message = re.sub(r"[^\s]{81,}", lambda word: f"{word[0][:40]}...{word[0][-20:]}", message).rstrip(".")
    message = f"{message[:1].lower()}{message[1:]}"
    extra = re.search(r"unexpected extra argument\S* \((\S+\.(?:tar|parquet))\b", message, re.IGNORECASE)
    if extra is not None:
        shell = "the shell has written a pattern of shards out: put it into quotation marks, as in --data 'shards/*.parquet'"
        return Failure(f"unexpected argument {extra[1]}: {shell}", "UsageError", 2)
    context = error.ctx
    return Failure(f"{message}; see {context.command_path} --help" if context is not None else message, "UsageError", 2)


def debugging(arguments: Sequence[str] = ()) -> bool:
    """Whether the traceback is to be shown, too: --debug, or SSLD_DEBUG=1."""
    return "--debug" in arguments or os.environ.get("SSLD_DEBUG", "") not in ("", "0")


def _is_out_of_memory(error: BaseException) -> bool:
    # Torch is not imported for this: its own errors are known by their names and words.
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(each in str(error).lower() for each in words))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def _save_report(error: BaseException) -> Path | None:
    """Write a report that only its owner may read; None if there is no place for it."""
    name = f"ssld-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}.txt"
    text = _report(error)
    for folder in _report_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return folder / name
        except (OSError, RuntimeError):  # RuntimeError: there is no home
            continue
    return None


def _report_folders() -> list[Path]:
    state = os.environ.get("XDG_STATE_HOME")
    folders = [Path(state)] if state else [Path.home() / ".local" / "state"] if os.environ.get("HOME") else []
    return [*(folder / "ssld" / "reports" for folder in folders), Path(tempfile.gettempdir())]


def _report(error: BaseException) -> str:
    import platform

    from ssl_diffusion.machine import package_versions, source_commit

    lines = [
        f"command    ssld {shlex.join(_arguments())}",
        f"when       {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"platform   {platform.platform()}",
        f"versions   {', '.join(f'{name} {version}' for name, version in package_versions().items())}",
        f"commit     {source_commit() or 'unknown'}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    return _without_secrets("\n".join(lines))


def _arguments() -> tuple[str, ...]:
    return ARGUMENTS.get() or tuple(sys.argv[1:])


def _without_secrets(text: str) -> str:
    """A text in which what no one else may know is replaced by ***."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _IN_QUERIES.sub(r"\1***", _IN_URLS.sub("***@", text))


def _secrets() -> set[str]:
    """Secrets that this process was given: values of options and of environment variables."""
    words = _arguments()
    found = {value for name, value in os.environ.items() if _SECRET_VARIABLES.fullmatch(name)}
    for word, following in zip(words, (*words[1:], ""), strict=True):
        option, equals, value = word.partition("=")
        if option in _SECRET_OPTIONS:
            found.add(value if equals else following)
    return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
