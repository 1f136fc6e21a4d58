// Looking at one image: zoom under the pointer, pan, contrast, brightness, invert; the pixels of the original file.

import { $ } from "./elements.js";

const LARGEST = 40;
const view = { scale: 1, x: 0, y: 0 };
const pointers = new Map();

function apply() {
  const frame = $("frame").getBoundingClientRect();
  view.scale = Math.min(LARGEST, Math.max(1, view.scale));
  view.x = Math.min(0, Math.max(frame.width * (1 - view.scale), view.x));
  view.y = Math.min(0, Math.max(frame.height * (1 - view.scale), view.y));
  $("stage").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  $("frame").classList.toggle("zoomed", view.scale > 1);
  const image = $("image");
  if (!image.naturalWidth) return;
  // Small images are drawn as the pixels that they are, larger ones smooth until they are looked at closely.
  const pixel = (view.scale * Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight));
  image.classList.toggle("small", image.naturalWidth < 64 || (view.scale > 1 && pixel > 8));
  $("zoom-reset").textContent = view.scale === 1 ? "fit" : `${pixel >= 1 ? pixel.toFixed(1).replace(/\.0$/, "") : pixel.toFixed(2)} ×`;
  // The page shows large files scaled down: whoever looks closely gets all pixels.
  if (view.scale > 1.2 && image.dataset.whole && !image.dataset.asked) {
    image.dataset.asked = "yes";
    const whole = new Image();
    whole.src = image.dataset.whole;
    whole.decode().then(() => { if (image.isConnected) image.src = whole.src; }, () => undefined);
  }
}

function zoomAt(clientX, clientY, factor) {
  const frame = $("frame").getBoundingClientRect();
  const [px, py] = [clientX - frame.left, clientY - frame.top];
  const scale = Math.min(LARGEST, Math.max(1, view.scale * factor));
  view.x = px - ((px - view.x) * scale) / view.scale;
  view.y = py - ((py - view.y) * scale) / view.scale;
  view.scale = scale;
  apply();
}

export function zoom(factor) {
  const frame = $("frame").getBoundingClientRect();
  zoomAt(frame.left + frame.width / 2, frame.top + frame.height / 2, factor);
}

export function resetZoom() {
  Object.assign(view, { scale: 1, x: 0, y: 0 });
  apply();
}

export const isZoomed = () => view.scale > 1;

export function pan(x, y) {
  view.x += x;
  view.y += y;
  apply();
}

function tone() {
  const inverted = $("invert").getAttribute("aria-pressed") === "true";
  const [contrast, brightness] = ["contrast", "brightness"].map((id) => Number($(id).value));
  const plain = contrast === 100 && brightness === 100 && !inverted;
  $("stage").style.filter = plain ? "" : `brightness(${brightness}%) contrast(${contrast}%)${inverted ? " invert(1)" : ""}`;
}

export function invert() {
  $("invert").setAttribute("aria-pressed", String($("invert").getAttribute("aria-pressed") !== "true"));
  tone();
}

// A new image is seen whole; contrast stays, since the next image is usually of the same kind.
export function showWhole(address) {
  const image = $("image");
  if (Math.max(image.naturalWidth, image.naturalHeight) >= 1600) image.dataset.whole = `${address}&size=whole`;
  resetZoom();
}

export function startViewer() {
  const frame = $("frame");
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(event.clientX, event.clientY, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
  }, { passive: false });
  frame.addEventListener("dblclick", (event) => { if (view.scale > 1) resetZoom(); else zoomAt(event.clientX, event.clientY, 3); });
  frame.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, event); frame.setPointerCapture(event.pointerId); });
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, (event) => pointers.delete(event.pointerId));
  frame.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    if (pointers.size === 1) {
      pan(event.clientX - before.clientX, event.clientY - before.clientY);
    } else if (pointers.size === 2) {
      const other = [...pointers.values()].find((each) => each.pointerId !== event.pointerId);
      const distance = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY);
      zoomAt((event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2, distance(event) / Math.max(1, distance(before)));
    }
    pointers.set(event.pointerId, event);
  });
  $("zoom-in").addEventListener("click", () => zoom(1.6));
  $("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  $("zoom-reset").addEventListener("click", resetZoom);
  $("invert").addEventListener("click", invert);
  for (const id of ["contrast", "brightness"]) $(id).addEventListener("input", tone);
  addEventListener("resize", apply);
}
