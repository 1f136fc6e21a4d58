"""What the contracts share: running one without pytest, and errors that are to come."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ssl_diffusion.errors import SSLDError

__all__ = ["check", "raises", "random_state"]


def check(contract: object) -> int:
    """Run all tests of a contract without pytest, as in a notebook or a script.

    Args:
        contract: Object whose methods named `test_...` are run in the order of their definition.

    Returns:
        Number of tests that were run.

    Raises:
        AssertionError: At the first broken promise, with a sentence that says which.

    Example:
        >>> class MyStrategy(StrategyContract):
        ...     strategy = "my-strategy"
        >>> check(MyStrategy())
    """
    # The order of definition, the most general class first; a test that a subclass overrides runs once.
    names = {name: None for kind in reversed(type(contract).__mro__) for name in vars(kind) if name.startswith("test_")}
    for name in names:
        getattr(contract, name)()
    return len(names)


@contextmanager
def raises(kind: type[SSLDError], words: str = "") -> Iterator[None]:
    """Assert that an error of this kind, whose sentence has these words, is raised, as pytest.raises does."""
    try:
        yield
    except kind as error:
        if words not in str(error):
            raise AssertionError(f"the error does not mention {words!r}: {error}") from error
    else:
        raise AssertionError(f"no {kind.__name__} was raised" + (f" about {words!r}" if words else ""))


def random_state() -> tuple[bytes, bytes]:
    """The global random states of numpy and torch, to be compared."""
    import torch  # slow to import

    return repr(np.random.get_state(legacy=False)).encode(), torch.get_rng_state().numpy().tobytes()
