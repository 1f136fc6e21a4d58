"""Commands of `ssld`, run in the process of the test."""

from ssl_diffusion.cli.main import app
from typer.testing import CliRunner, Result

CPU = ["--accelerator", "cpu", "--precision", "fp32"]


def ssld(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def ok(*arguments: object) -> Result:
    result = ssld(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object) -> str:
    """Run a command that must fail with exit code 2, nothing on stdout, and one sentence at the end of stderr; returns it.

    Below the sentence may stand a list: the files that it speaks of, indented.
    """
    result = ssld(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    _, *errors = result.stderr.split("ssld: error: ")
    assert len(errors) == 1, result.stderr
    assert all(line.startswith("  ") for line in errors[0].splitlines()[1:]), result.stderr
    assert "Traceback" not in result.stderr
    return errors[0].strip()
