"""The compiled network computes what the other does, and a machine without a compiler says so."""

from dataclasses import replace

import pytest
import torch
from support.jobs import make_job

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.training.compiling import compiler_errors
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.settings import TrainingSettings

SETTINGS = TrainingSettings(steps=2, batch_size=4, labeled_batch_size=4)


@pytest.mark.slow  # the compiler takes most of a minute
def test_a_compiled_network_is_trained_to_the_same_weights_but_for_rounding() -> None:
    job = make_job(SETTINGS)
    plain, compiled = (train(replace(job, compute=job.compute.replace(compile=on))).raw for on in (False, True))
    assert plain.keys() == compiled.keys()
    for name, weights in plain.items():
        torch.testing.assert_close(compiled[name], weights, rtol=1e-3, atol=1e-4)


def test_only_errors_of_the_compiler_become_a_sentence() -> None:
    failure = type("BackendCompilerFailed", (RuntimeError,), {"__module__": "torch._dynamo.exc"})
    with pytest.raises(SSLDError, match=r"torch cannot compile the network here \(no compiler\): leave out"), compiler_errors():
        raise failure("no compiler\n\nwith advice")
    with pytest.raises(RuntimeError, match="out of memory"), compiler_errors():
        raise RuntimeError("out of memory")
