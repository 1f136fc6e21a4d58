"""What the page says and shows of a search: never a picture of what failed, nor one in which nobody sees anything."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop import counterfactuals
from ssl_diffusion.annotation.loop.counterfactuals import Counterfactual, Explainer
from ssl_diffusion.annotation.loop.explanations import Explanation, Named
from ssl_diffusion.annotation.page.explanation_messages import ExplanationResponse
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.generation.counterfactual.way import boundary_on_the_way
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.models.pixels import to_bytes
from ssl_diffusion.testing.toys import GaussianDenoiser, LinearModel

GRAY = np.full((1, 4, 4), 100, dtype=np.uint8)
FENCE = "on the fence between four and six"


def shown(edge: int | None, sure: int | None) -> Counterfactual:
    """What is shown of changes by so many gray levels, of which None failed."""

    def picture(change: int | None, p: float) -> counterfactuals._Picture:
        image: NDArray[np.uint8] = np.full_like(GRAY, 255) if change is None else GRAY + np.uint8(change)
        return counterfactuals._Picture(image, change is not None, p, 0.1)

    return counterfactuals._shown(GRAY, 4, 6, picture(edge, 0.51), picture(sure, 0.93))


@pytest.mark.parametrize(
    ("edge", "sure", "kind", "pictures", "said"),
    [
        (20, 90, "sure", ["original", "sure", "boundary", "difference"], "six if changed like this"),
        (2, 90, "sure", ["original", "sure", "boundary", "difference"], "six if changed like this"),
        (None, 90, "sure", ["original", "sure", "difference"], "six if changed like this"),
        (
            50,
            None,
            "boundary",
            ["original", "boundary", "difference"],
            f"no sure counterfactual of six found: changed like this it is {FENCE}",
        ),
        (3, None, "fence", [], f"{FENCE}: a change that nobody sees decides"),
        (2, 5, "fence", [], f"{FENCE}: a change that nobody sees decides"),
        (None, None, "none", [], "no counterfactual of six found"),
    ],
)
def test_what_is_said_and_shown(edge: int | None, sure: int | None, kind: str, pictures: list[str], said: str) -> None:
    found = shown(edge, sure)
    named = Named("four", "six", found)
    assert (found.kind, list(found.pictures), named.said()) == (kind, pictures, said)
    assert math.isnan(found.probability) == (kind == "none")
    response = ExplanationResponse.of("a b.png", Explanation(counterfactuals=[named]))
    (message,) = response.counterfactuals
    assert [picture.image for picture in message.pictures] == [
        f"counterfactual?id=a%20b.png&k=0&picture={name}" for name in pictures
    ]
    captions = {
        "original": "original",
        "boundary": "at the boundary" if kind == "sure" else "six 0.51",
        "sure": "six 0.93",
        "difference": "change × 6",
    }
    assert [picture.caption for picture in message.pictures] == [captions[name] for name in pictures]


def test_who_waits_comes_before_what_is_searched_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer, log = Explainer(SimpleNamespace()), list[str]()  # type: ignore[arg-type]

    def search(run: object, classifier: object, position: int) -> Iterator[Counterfactual]:
        for target in range(2):
            log.append(f"{position}/{target}")
            if log == ["7/0"]:
                assert explainer.of(1) is None  # somebody asks for another sample meanwhile
            yield shown(20, 90)

    monkeypatch.setattr(explainer, "_search", search)
    monkeypatch.setattr(counterfactuals, "replace", lambda run, model: run)
    classifier: Any = SimpleNamespace(model=1, numbers=np.arange(3))
    explainer._classifier, explainer._run = classifier, SimpleNamespace()  # type: ignore[assignment]
    explainer.ahead([7])
    explainer.start()
    assert explainer.idle(30)
    explainer.stop()
    assert log == ["7/0", "1/0", "1/1", "7/0", "7/1"]
    assert [len(explainer.of(i) or []) for i in (1, 7)] == [2, 2]


def test_the_boundary_on_the_way_is_the_first_image_of_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 4, generator=generator))[0]
    weight = 6 * (torch.randn(3, 4, generator=generator) @ basis.T)
    denoiser = GaussianDenoiser(torch.zeros(16), basis, torch.full((4,), 0.3))
    model: Any = LinearModel(weight, torch.zeros(3), (1, 4, 4), denoiser)
    images = to_bytes((torch.randn(6, 4, generator=generator) / 2 @ basis.T).view(6, 1, 4, 4))
    sure = explain(model, images, confidence=0.8, revert=False)
    edge = boundary_on_the_way(model, sure)
    assert sure.success.any()
    before, after = predict_probabilities(model, edge.images()), predict_probabilities(model, sure.images())
    for i in np.flatnonzero(sure.success):
        assert before[i].argmax() == after[i].argmax() == sure.target[i]
        assert before[i, sure.target[i]] == pytest.approx(edge.p_target[i], abs=1e-5)
        assert edge.distance_pixel[i] < sure.distance_pixel[i]
        change = edge.images()[i].astype(int) - images[i]
        whole = sure.images()[i].astype(int) - images[i]
        assert (np.abs(change) <= np.abs(whole)).all()
        before_it = (images[i] + np.trunc(0.9 * change)).astype(np.uint8)
        assert predict_probabilities(model, before_it[None])[0].argmax() != sure.target[i]
    for name in ("counterfactual", "distance_pixel"):  # a failure stays as it was
        np.testing.assert_array_equal(getattr(edge, name)[~sure.success], getattr(sure, name)[~sure.success])
