// What the model says of the sample on the screen: it is shown when it is ready, labeling does not wait for it.

import { $, element, pause } from "./elements.js";
import { call, isAway } from "./requests.js";
import { now, session } from "./session.js";

export function clearExplanation() {
  $("predictions").replaceChildren();
  $("counterfactuals").replaceChildren();
  $("counterfactuals-title").hidden = true;
  $("explanation-note").textContent = "";
}

export async function explain(of) {
  let shown = 0;
  for (let attempt = 0; !session.blind && now.sample === of; attempt++) {
    if (attempt) await pause(Math.min(5000, 500 * 1.2 ** attempt));
    let found = null;
    try {
      found = await call(`/api/explanation?id=${encodeURIComponent(of.id)}`);
    } catch (error) {
      if (now.sample === of) $("explanation-note").textContent = `The predictions cannot be loaded (${error.message}).`;
      if (isAway(error)) continue;
      return;
    }
    if (now.sample !== of) return;
    showPredictions(found);
    if (found.counterfactuals.length !== shown) {
      shown = found.counterfactuals.length;
      showCounterfactuals(found.counterfactuals);
    }
    if (found.ready) return;
    $("explanation-note").textContent = "searching counterfactuals";
  }
}

function showPredictions(found) {
  $("explanation-note").textContent = found.note || (found.predictions.length ? "" : "no prediction yet");
  $("predictions").replaceChildren(...found.predictions.map((prediction) => {
    const row = element("li");
    const meter = element("div", undefined, "meter");
    const part = element("div");
    part.style.width = `${100 * prediction.probability}%`;
    meter.append(part);
    row.append(element("span", prediction.label), meter, element("span", `${Math.round(100 * prediction.probability)} %`));
    return row;
  }));
}

function showCounterfactuals(found) {
  $("counterfactuals-title").hidden = !found.length;
  $("counterfactuals").replaceChildren(...found.map((c) => {
    const row = element("div", undefined, "counterfactual");
    row.append(element("p", c.said));
    const pictures = element("div", undefined, "pictures");
    pictures.append(...c.pictures.map((picture) => {
      const figure = element("figure");
      const image = element("img");
      image.src = picture.image;
      image.alt = `the sample, changed to ${c.label}: ${picture.caption}`;
      figure.append(image, element("figcaption", picture.caption));
      return figure;
    }));
    if (c.pictures.length) row.append(pictures);
    return row;
  }));
}
