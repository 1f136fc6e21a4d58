"""Accounts for tests: one of each role, with passwords that are hashed at a low cost."""

from pathlib import Path

import pytest

from ssl_diffusion.annotation.accounts import ROLES, Accounts

PASSWORD = "a password of {} for tests"


def password(name: str) -> str:
    """Password of an account that :func:`make_accounts` made."""
    return PASSWORD.format(name)


def make_accounts(path: Path) -> Accounts:
    """Accounts called owner, reviewer and annotator, each with that role, and "other", a second annotator."""
    accounts = Accounts(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_diffusion.annotation.accounts._COST", (2, 1, 1))
        for role in reversed(ROLES):
            accounts.add(role, role, password(role))
        accounts.add("other", "annotator", password("other"))
    return accounts
