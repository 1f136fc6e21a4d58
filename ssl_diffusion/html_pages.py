"""Templates of HTML pages that need nothing else: those of reports and checks, on the base `html_base.html`."""

from functools import cache

import jinja2

__all__ = ["page_template"]


def page_template(name: str) -> jinja2.Template:
    """A template of the package, in which text is escaped and a name that nobody gave a value is an error.

    Args:
        name: Path below the package, such as `studies/report.html`.

    Example:
        >>> page_template("studies/report.html").name
        'studies/report.html'
    """
    return _environment().get_template(name)


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("ssl_diffusion", ".")
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
