"""Frames a second of the labeling page's map, and how long a lasso takes, with 100,000 points in a real browser.

    python benchmarks/map_frames.py --work DIR
    python benchmarks/map_frames.py table

A job of 100,000 photos (the digits of scikit-learn, as hard links) with 200 labels is served on loopback and opened in
headless Chromium without a graphics card. The map is zoomed in and out again by one turn of the wheel a frame, so that each
frame is drawn anew by the page's own code. `frame_ms` is the time between two frames, which the display makes 16.7 ms or more.
`cpu_ms` is the processor time of the page's main thread a frame, which other processes hardly change; `draw_ms` is the median
time of a drawing of the whole map, to a tenth of a millisecond. `lasso_ms` is the time from the end of a line around a part of
the map to the sheet of 24 images.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from annotation import label_some, make_job
from common import RESULTS, append_row, markdown_table, provenance
from support.browser import browse, open_page, shown

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries

CSV = RESULTS / "map_frames.csv"
LABELS = 200
CORNERS = ((0.3, 0.3), (0.7, 0.25), (0.75, 0.7), (0.5, 0.55), (0.25, 0.75), (0.3, 0.4))  # of the lasso, in parts of the map

# One turn of the wheel a frame, in and out again; the times between the frames, in milliseconds.
TURN = """frames => new Promise((done) => {
  const canvas = document.getElementById('map');
  const box = canvas.getBoundingClientRect();
  const place = { clientX: box.left + 0.4 * box.width, clientY: box.top + 0.6 * box.height, bubbles: true, cancelable: true };
  const times = [];
  function step(at) {
    times.push(at);
    if (times.length > frames) { done(times.slice(1).map((t, k) => t - times[k])); return; }
    canvas.dispatchEvent(new WheelEvent('wheel', { ...place, deltaY: times.length % 40 < 20 ? -40 : 40 }));
    requestAnimationFrame(step);
  }
  requestAnimationFrame(step);
})"""

# Milliseconds of each of some drawings of the whole map.
DRAW = """frames => Array.from({ length: frames }, () => {
  const began = performance.now();
  ssld.map.draw();
  return performance.now() - began;
})"""

SHEET = "() => ssld.now.sheet && document.querySelectorAll('#tiles button').length === 24"


def open_job_of(work: Path, n: int) -> Job:
    """A job of n photos with labels; the one that is there is used again."""
    job = make_job(work / f"map-{n}", n)
    if not len(queries.labels(job.store)[0]):
        label_some(job, LABELS)
    return job


def measure(job: Job, frames: int, ratio: int) -> dict[str, Any]:
    """One row: the frames of the map at so many pixels of the screen for one of the page."""
    row: dict[str, Any] = {}

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        await page.wait_for_function("n => ssld.map?.data()?.n === n", arg=len(job.store.ids), timeout=0)
        await page.select_option("#map-color", "predicted")
        box = await page.locator("#map").bounding_box()
        await page.evaluate(TURN, 20)  # the first frames compile the code
        session = await context.new_cdp_session(page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = await seconds_of(session)
        times = await page.evaluate(TURN, frames)
        cpu = 1000 * (await seconds_of(session) - before) / frames
        await page.click("#map-fit")
        draw = statistics.median(await page.evaluate(DRAW, frames))
        drawn = await page.locator("#map").evaluate("canvas => `${canvas.width} x ${canvas.height}`")
        row.update(points=len(job.store.ids), pixels=drawn, ratio=ratio, frames=frames)
        p95 = sorted(times)[int(0.95 * len(times))]
        row.update(
            frame_ms=round(statistics.median(times), 2), p95_ms=round(p95, 2), cpu_ms=round(cpu, 2), draw_ms=round(draw, 2)
        )
        row.update(frames_a_second=round(1000 * len(times) / sum(times), 1), lasso_ms=round(await lasso(page, box), 1))

    browse(job, scenario, viewport={"width": 1280, "height": 900}, device_scale_factor=ratio)
    return row


async def seconds_of(session: Any) -> float:
    """Processor time of the page's main thread so far."""
    found = await session.send("Performance.getMetrics")
    return float({each["name"]: each["value"] for each in found["metrics"]}["TaskDuration"])


async def lasso(page: Any, box: dict[str, float]) -> float:
    """Milliseconds from the end of a line on the map to its sheet."""
    await page.click("#map-fit")
    await page.click("#map-lasso")
    corners = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in CORNERS]
    await page.mouse.move(*corners[0])
    await page.mouse.down()
    for corner in corners[1:]:
        await page.mouse.move(*corner, steps=20)
    began = time.perf_counter()
    await page.mouse.up()
    await page.wait_for_function(SHEET, timeout=60_000)
    return 1000 * (time.perf_counter() - began)


def table() -> str:
    """The last row of each size of the map."""
    rows = pd.read_csv(CSV).groupby("ratio").tail(1)
    names = ["points", "pixels", "frame_ms", "p95_ms", "frames_a_second", "cpu_ms", "draw_ms", "lasso_ms"]
    return markdown_table(rows[names].to_dict("records"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="measure", choices=["measure", "table"])
    parser.add_argument("--work", type=Path, default=Path("map-frames"))
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--frames", type=int, default=240)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "measure":
        job = open_job_of(arguments.work, arguments.points)
        for ratio in (1, 2):
            append_row(CSV, measure(job, arguments.frames, ratio) | provenance())
    print(table())


if __name__ == "__main__":
    main()
