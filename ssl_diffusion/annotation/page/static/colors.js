// Colors of classes and of scales; legible on light and dark ground.

const FIRST = ["#3b7dd8", "#e07b28", "#3f9e54", "#c94040", "#8d6cc7", "#9a6a4a", "#d66fb0", "#7f7f7f", "#a8a13a", "#2fa7b8"];

const parse = (hex) => [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));

function fromHsl(h, s, l) {
  const a = s * Math.min(l, 1 - l);
  return [0, 8, 4].map((n) => {
    const k = (n + h / 30) % 12;
    return Math.round(255 * (l - a * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

export const classColor = (k) => (k < FIRST.length ? parse(FIRST[k]) : fromHsl((k * 137.508) % 360, 0.55, k % 2 ? 0.5 : 0.62));
export const css = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;

const RAMP = [[68, 84, 158], [58, 140, 150], [106, 178, 92], [222, 200, 62]];
export function scaleColor(t) {
  const at = Math.min(0.9999, Math.max(0, t)) * (RAMP.length - 1);
  const k = Math.floor(at);
  return RAMP[k].map((value, i) => Math.round(value + (at - k) * (RAMP[k + 1][i] - value)));
}
