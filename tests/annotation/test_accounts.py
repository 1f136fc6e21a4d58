"""The file of accounts: what may be done to it, what it never holds, and that it always has an owner."""

import json
import stat
from pathlib import Path

import pytest
from support.accounts import make_accounts, password
from support.commands import ok, refused
from typer.testing import CliRunner

from ssl_diffusion.annotation.accounts import ROLES, Accounts, Role, may, role_of
from ssl_diffusion.annotation.sessions import Sessions
from ssl_diffusion.errors import SSLDError, StateError


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return make_accounts(tmp_path / "team.json")


def test_a_password_is_kept_as_a_salted_hash_in_a_file_of_ones_own(accounts: Accounts) -> None:
    text = accounts.path.read_text(encoding="utf-8")
    assert password("owner") not in text
    assert stat.S_IMODE(accounts.path.stat().st_mode) == 0o600
    accounts.set_password("other", password("owner"))
    secrets = {each.name: each.secret for each in accounts.all()}
    assert secrets["other"].salt != secrets["owner"].salt
    assert secrets["other"].hash != secrets["owner"].hash
    assert (secrets["other"].n, secrets["other"].r, secrets["other"].p) == (2**15, 8, 3)  # at what it costs outside of tests
    assert accounts.check("other", password("owner")) is not None
    assert accounts.check("other", password("other")) is None


def test_only_the_password_of_the_name_is_right(accounts: Accounts) -> None:
    found = accounts.check("reviewer", password("reviewer"))
    assert found is not None
    assert (found.name, found.role) == ("reviewer", "reviewer")
    for name, given in (
        ("reviewer", ""),
        ("reviewer", password("owner")),
        ("Reviewer", password("reviewer")),
        ("", ""),
        ("x", "y"),
    ):
        assert accounts.check(name, given) is None
    accounts.set_password("other", "Zoë has a long password")
    assert accounts.check("other", "Zoe\u0308 has a long password") is not None  # as another keyboard writes it


@pytest.mark.parametrize("change", ["remove", "demote"])
def test_the_last_owner_stays(accounts: Accounts, change: str) -> None:
    def do(name: str) -> None:
        accounts.remove(name) if change == "remove" else accounts.set_role(name, "reviewer")

    with pytest.raises(SSLDError, match="'owner', the last owner: make somebody else an owner first"):
        do("owner")
    accounts.set_role("other", "owner")
    do("owner")
    with pytest.raises(SSLDError, match="'other', the last owner"):
        do("other")
    assert [each.name for each in accounts.all() if each.role == "owner"] == ["other"]


@pytest.mark.parametrize(
    ("name", "role", "given", "words"),
    [
        ("owner", "annotator", "long enough to be one", "has an account 'owner' already"),
        ("OWNER", "annotator", "long enough to be one", "has an account 'owner' already"),
        ("ｏwner", "annotator", "long enough to be one", "has an account 'owner' already"),
        ("", "annotator", "long enough to be one", "cannot be the name of an account"),
        (" ada", "annotator", "long enough to be one", "cannot be the name of an account"),
        ("a\nb", "annotator", "long enough to be one", "cannot be the name of an account"),
        ("a\ud800", "annotator", "long enough to be one", "cannot be the name of an account"),
        ("x" * 101, "annotator", "long enough to be one", "cannot be the name of an account"),
        ("ada", "annotator", "too short", "a password has 12 to 1000 characters: this one has 9"),
        ("ada", "annotator", "x" * 1001, "a password has 12 to 1000 characters"),
    ],
)
def test_what_cannot_be_an_account(accounts: Accounts, name: str, role: Role, given: str, words: str) -> None:
    before = accounts.path.read_bytes()
    with pytest.raises(SSLDError, match=words):
        accounts.add(name, role, given)
    assert accounts.path.read_bytes() == before


def test_the_first_account_is_an_owners(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "new.json")
    with pytest.raises(SSLDError, match="has to be an owner's: add it with --role owner"):
        accounts.add("ada", "annotator", "long enough to be one")
    assert not accounts.path.exists()
    with pytest.raises(StateError, match=r"is missing; add an owner with: ssld loop accounts add"):
        accounts.all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ('{"accounts": []}', "no account is an owner's"),
        ('{"accounts": [{"name": "a", "role": "king"}]}', "accounts"),
        ("twice", "two accounts have the same name"),
        ("plain", "secret"),
    ],
)
def test_a_damaged_file_opens_nothing(accounts: Accounts, content: str, words: str) -> None:
    known = json.loads(accounts.path.read_text())
    if content == "twice":
        content = json.dumps({"accounts": [known["accounts"][0], known["accounts"][0]]})
    elif content == "plain":
        content = json.dumps({"accounts": [{**known["accounts"][0], "secret": "password"}]})
    cookie = (sessions := Sessions(accounts)).begin(accounts.all()[0])
    accounts.path.write_text(content)
    for task in (accounts.all, lambda: sessions.account_of(cookie), lambda: accounts.check("owner", password("owner"))):
        with pytest.raises(StateError, match=words):
            task()


def test_roles_have_an_order() -> None:
    assert [[may(role, needed) for needed in ROLES] for role in ROLES] == [
        [True, False, False], [True, True, False], [True, True, True]
    ]  # fmt: skip
    assert [role_of(role) for role in ROLES] == list(ROLES)
    with pytest.raises(SSLDError, match=r"there is no role 'onwer'; did you mean owner\?"):
        role_of("onwer")


def test_a_session_ends_by_itself_and_with_its_account(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("ssl_diffusion.annotation.sessions.time.monotonic", lambda: now)
    sessions = Sessions(accounts)
    other = accounts.find("other")
    assert other is not None
    idle, kept, out = (sessions.begin(other) for _ in range(3))
    assert len({idle, kept, out}) == 3
    assert sessions.account_of("") is None
    assert sessions.account_of("x" * 43) is None
    sessions.end(out)
    assert sessions.account_of(out) is None
    for _ in range(13):  # hours
        now += 3600
        assert sessions.account_of(kept) == other
    assert sessions.account_of(idle) is None
    accounts.set_role("other", "reviewer")
    assert sessions.account_of(kept).role == "reviewer"  # type: ignore[union-attr]
    while now < 1000 + 7 * 24 * 3600:
        assert sessions.account_of(kept) is not None
        now += 6 * 3600
    now += 6 * 3600
    assert sessions.account_of(kept) is None
    first, second = sessions.begin(accounts.find("other")), sessions.begin(accounts.find("reviewer"))  # type: ignore[arg-type]
    accounts.set_password("other", "quite another password")
    accounts.remove("reviewer")
    assert sessions.account_of(first) is None
    assert sessions.account_of(second) is None
    accounts.add("reviewer", "reviewer", password("reviewer"))
    assert sessions.account_of(second) is None  # it is another account


# -- the command ------------------------------------------------------------------------------------------------------


def run(*words: object, given: str = "") -> dict[str, object]:
    from ssl_diffusion.cli.main import app

    done = CliRunner().invoke(app, ["loop", "accounts", *map(str, words), "--json"], input=given)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_accounts_by_the_command(tmp_path: Path) -> None:
    file = tmp_path / "team.json"
    assert run("add", file, "ada", "--role", "owner", given="correct horse battery\n") == {"name": "ada", "role": "owner"}
    assert run("add", file, "bob", given="another long password\n") == {"name": "bob", "role": "annotator"}
    assert run("role", file, "bob", "reviewer") == {"name": "bob", "role": "reviewer"}
    assert run("list", file) == {"accounts": [{"name": "ada", "role": "owner"}, {"name": "bob", "role": "reviewer"}]}
    assert ok("loop", "accounts", "list", file).stdout == "owner       ada\nreviewer    bob\n"
    assert run("password", file, "bob", given="yet another password\r\n") == {"name": "bob"}
    assert Accounts(file).check("bob", "yet another password") is not None
    assert run("remove", file, "bob") == {"removed": "bob"}
    assert "has no account 'bob'" in refused("loop", "accounts", "remove", file, "bob")
    assert "the last owner" in refused("loop", "accounts", "remove", file, "ada")
    assert "the last owner" in refused("loop", "accounts", "role", file, "ada", "annotator")
    assert "there is no role 'king'" in refused("loop", "accounts", "role", file, "ada", "king")
    assert "has an account 'ada' already" in refused("loop", "accounts", "add", file, "Ada")
    assert "this one has 0" in refused("loop", "accounts", "add", file, "cleo")  # nothing was given
    assert [each.name for each in Accounts(file).all()] == ["ada"]
