// Many points in a plane, written pixel by pixel into a canvas. For round dots of a few pixels this is faster than WebGL without a
// graphics card, needs none, and with one it is as fluid: 100,000 points take a few milliseconds.

// Offsets of the pixels of a round dot in an image of so many columns.
function dot(diameter, columns) {
  const radius = diameter / 2;
  const offsets = [];
  const reach = Math.ceil(radius);
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) if (x * x + y * y <= radius * radius) offsets.push(y * columns + x);
  }
  return { offsets: Int32Array.from(offsets.length ? offsets : [0]), reach };
}

export function makePoints(canvas) {
  const context = canvas.getContext("2d");
  let places = new Uint16Array(0);
  let colors = new Uint32Array(0);
  let back = new Uint32Array(0); // points, those that matter last, so that they lie in front
  let front = new Uint32Array(0);
  let image = null;
  let pixels = null;

  function paint(which, { offsets, reach }, view, width, height) {
    const unit = (0.95 * view.scale * Math.min(width, height)) / 65535;
    const [left, top] = [width / 2 - view.x * 65535 * unit, height / 2 + view.y * 65535 * unit];
    const [right, bottom] = [width - reach, height - reach];
    const n = offsets.length;
    for (let k = 0; k < which.length; k++) {
      const i = which[k];
      const x = (left + places[2 * i] * unit) | 0;
      const y = (top - places[2 * i + 1] * unit) | 0;
      if (x < reach || y < reach || x >= right || y >= bottom) continue;
      const at = y * width + x;
      const color = colors[i];
      for (let j = 0; j < n; j++) pixels[at + offsets[j]] = color;
    }
  }

  return {
    setPlaces(xy) { places = xy; },
    // Red, green, blue of every point, and whether it lies in front.
    setColors(rgb, inFront) {
      const n = inFront.length;
      colors = new Uint32Array(n);
      for (let i = 0; i < n; i++) colors[i] = (255 << 24) | (rgb[3 * i + 2] << 16) | (rgb[3 * i + 1] << 8) | rgb[3 * i];
      const all = Uint32Array.from({ length: n }, (_, i) => i);
      back = all.filter((i) => !inFront[i]);
      front = all.filter((i) => inFront[i]);
    },
    // Center in [0, 1], and how many times the map is enlarged.
    draw(view) {
      const ratio = Math.min(2, globalThis.devicePixelRatio || 1);
      const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
      if (!width || !height) return;
      if (!image || image.width !== width || image.height !== height) {
        canvas.width = width;
        canvas.height = height;
        image = context.createImageData(width, height);
        pixels = new Uint32Array(image.data.buffer);
      } else {
        pixels.fill(0);
      }
      const n = colors.length;
      const size = ratio * (n > 20000 ? 1.5 : n > 3000 ? 2.5 : 5) * Math.min(4, view.scale ** 0.4);
      paint(back, dot(size, width), view, width, height);
      paint(front, dot(1.6 * size, width), view, width, height);
      context.putImageData(image, 0, 0);
    },
  };
}
