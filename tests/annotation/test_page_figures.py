"""What the page shows of how good a model is: the figure that the job goes by, the accuracy, and what needs no model."""

from pathlib import Path
from typing import Any

import pytest
from support.annotation_jobs import make_job, truth
from support.browser import CHROMIUM, axe, browse, open_page, shown
from support.sets import answer_sets, make_sets_job

from ssl_diffusion.annotation.loop.status import status_of
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pool import Pool

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)"),
    pytest.mark.timeout(180),
]
ANN = Actor("ann")
MEASURED = "() => /from \\d+ label/.test(document.getElementById('accuracy').textContent)"


@pytest.mark.parametrize("n_audit", [16, 50])
def test_the_figure_of_the_job_leads_from_50_labels_on_beside_the_baseline(
    n_audit: int, tmp_path: Path, digits_pool: Pool, tiny: list[str]
) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--n", 10, "--audit", 50, "--set", "training.metric=balanced-accuracy")
    pool, audit = (job.store.ids[job.store.of_role(role)].tolist() for role in ("pool", "audit"))
    job.store.apply([Action("label", id_, ANN, truth(digits_pool, id_)) for id_ in [*pool[:30], *audit[:n_audit]]])
    digits = [truth(digits_pool, id_) for id_ in audit[:n_audit]]
    most = max(digits.count(each) for each in digits) / n_audit
    found = status_of(job)
    assert (found.audit_majority, found.audit is not None, found.audit_metric is not None) == (most, True, True)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        await page.wait_for_function(MEASURED)
        assert await page.text_content("#metric-title") == "Balanced accuracy"
        lines = [(await page.text_content(f"#{each}"), each) for each in ("metric", "accuracy")]
        for (line, where), estimate in zip(lines, (found.audit_metric, found.audit), strict=True):
            between = f"between {100 * estimate.low:.1f} % and {100 * estimate.high:.1f} % (95 %), from {n_audit} labels"
            if n_audit == 50:
                assert line == f"{100 * estimate.accuracy:.1f} %, {between}"
            else:
                why = "before this says much" if where == "metric" else "for about ± 10 points"
                assert line == f"34 more audit labels {why}. So far {between}."
        top = await page.text_content("#progress")
        figure = f"balanced accuracy {100 * found.audit_metric.accuracy:.1f} %"
        assert top.endswith(figure if n_audit == 50 else "34 more audit labels for the balanced accuracy")
        baseline = await page.text_content("#baseline")
        assert baseline.startswith(f"Always saying the most frequent class is right for {100 * most:.1f} % of these.")
        assert baseline.endswith("not surely better than that.") == (found.audit.low <= most)
        assert await axe(page) == []

    browse(job, scenario)


def test_a_macro_f1_of_few_labels_does_not_lead(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, right = make_sets_job(tmp_path, digits_pool, tiny, "--audit", 12, "--n", 30)
    for _ in range(2):
        answer_sets(job, right)
    job.next(4)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        await page.wait_for_function(MEASURED)
        assert await page.text_content("#accuracy-title") == "Macro F1"
        line = await page.text_content("#accuracy")
        assert line.startswith("38 more audit labels before this says much. So far between ")
        assert not await page.locator("#baseline, #metric").locator("visible=true").count()  # no accuracy is shown

    browse(job, scenario)
