"""`ssld loop accounts`: who may use a server, and what for."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .command import NOTHING, Context, command

__all__ = ["add", "list_", "password", "remove", "role"]

_FILE = Annotated[Path, typer.Argument(metavar="FILE", help="File of the accounts, as given to `loop serve --accounts`.")]
_NAME = Annotated[str, typer.Argument(metavar="NAME", help="Name of the account, under which labels are recorded.")]


@command(NOTHING)
def add(
    context: Context,
    file: _FILE,
    name: _NAME,
    role: Annotated[
        str, typer.Option(help="annotator, reviewer or owner; the first account has to be an owner's.")
    ] = "annotator",
) -> None:
    """Add an account. The password is asked for, or read from the first line of the standard input.

    An annotator labels; a reviewer also decides what is suspicious or disputed, changes others' labels and adds classes; an
    owner also starts and stops fits, renames, merges and removes classes, and exports.

    Examples:

      ssld loop accounts add team.json ada --role owner
    """
    from ssl_diffusion.annotation.accounts import Accounts, role_of

    wanted, accounts = role_of(role), Accounts(file)
    accounts.check_new(name, wanted)
    made = accounts.add(name, wanted, _read_password())
    context.output.result({"name": made.name, "role": made.role}, f"{made.name} has the role {made.role}; written to {file}")


@command(NOTHING)
def list_(context: Context, file: _FILE) -> None:
    """List the accounts and their roles."""
    from ssl_diffusion.annotation.accounts import Accounts

    found = [{"name": each.name, "role": each.role} for each in Accounts(file).all()]
    context.output.result({"accounts": found}, "\n".join(f"{each['role']:<11} {each['name']}" for each in found))


@command(NOTHING)
def remove(context: Context, file: _FILE, name: _NAME) -> None:
    """Remove an account, but not that of the last owner; a server that is running logs its person out. Labels stay."""
    from ssl_diffusion.annotation.accounts import Accounts

    Accounts(file).remove(name)
    context.output.result({"removed": name}, f"{name} is removed")


@command(NOTHING)
def role(
    context: Context,
    file: _FILE,
    name: _NAME,
    new_role: Annotated[str, typer.Argument(metavar="ROLE", help="annotator, reviewer or owner.")],
) -> None:
    """Change the role of an account, from the next click on."""
    from ssl_diffusion.annotation.accounts import Accounts, role_of

    wanted = role_of(new_role)
    Accounts(file).set_role(name, wanted)
    context.output.result({"name": name, "role": wanted}, f"{name} has the role {wanted} now")


@command(NOTHING)
def password(context: Context, file: _FILE, name: _NAME) -> None:
    """Give an account another password, asked for or read from the standard input; its sessions end."""
    from ssl_diffusion.annotation.accounts import Accounts

    accounts = Accounts(file)
    accounts.check_known(name)
    accounts.set_password(name, _read_password())
    context.output.result({"name": name}, f"{name} has a new password")


def _read_password() -> str:
    """A password, never from the arguments, which other users of the machine can see."""
    from getpass import getpass

    from ssl_diffusion.errors import SSLDError

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    given = getpass("Password: ")
    if getpass("The same again: ") != given:
        raise SSLDError("the two passwords differ: try again")
    return given
