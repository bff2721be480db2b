// Two panels that move without a kernel: a point of the latent plane and its frame; a filter and a smoother.
// What they draw from is made by experiments/panels.py and stands in the page as JSON.

// 1. The frame of a point: four neighbours on the grid, each with its weight.

function neighbours(sheet, point) {
  const at = point.map((v, k) => (v - sheet.low[k]) / (sheet.high[k] - sheet.low[k]) * (sheet.cells - 1));
  const first = at.map(v => Math.min(Math.max(Math.floor(v), 0), sheet.cells - 2));
  const part = at.map((v, k) => Math.min(Math.max(v - first[k], 0), 1));
  return [[0, 0], [0, 1], [1, 0], [1, 1]].map(([dx, dy]) => ({
    column: first[0] + dx,
    row: sheet.cells - 1 - first[1] - dy, // the first row of the sheet is the highest
    weight: (dx ? part[0] : 1 - part[0]) * (dy ? part[1] : 1 - part[1]),
  }));
}

// 2. A point with a velocity: z is [position, velocity], a covariance P = [[a, b], [b, c]] is kept as [a, b, c].

const moved = ([x, v]) => [x + v, v];
const spread = ([a, b, c], q) => [a + 2 * b + c + q / 3, b + c + q / 2, c + q];

function filter(y, q, r, start) {
  const steps = [];
  let mean = [0, 0], cov = [start, 0, start], evidence = 0;
  for (const value of y) {
    const step = { predicted: mean, predictedCov: cov };
    if (value !== null) {
      const [a, b, c] = cov, S = a + r, miss = value - mean[0], gain = [a / S, b / S];
      mean = mean.map((m, i) => m + gain[i] * miss);
      cov = [r * gain[0], r * gain[1], c - gain[1] * b];
      evidence -= (Math.log(2 * Math.PI * S) + miss * miss / S) / 2;
    }
    steps.push({ ...step, mean, cov });
    [mean, cov] = [moved(mean), spread(cov, q)];
  }
  return { steps, evidence };
}

function smoother(steps) {
  const found = [steps.at(-1)];
  for (let t = steps.length - 2; t >= 0; t--) {
    const { mean, cov: [a, b, c] } = steps[t], next = steps[t + 1], after = found[0];
    const [pa, pb, pc] = next.predictedCov, det = pa * pc - pb * pb;
    const cross = [[a + b, b], [b + c, c]]; // P Aᵀ
    const J = cross.map(([l, m]) => [(l * pc - m * pb) / det, (m * pa - l * pb) / det]);
    const d = after.mean.map((m, i) => m - next.predicted[i]);
    const [da, db, dc] = after.cov.map((v, i) => v - next.predictedCov[i]);
    const both = (i, j) => J[i][0] * (da * J[j][0] + db * J[j][1]) + J[i][1] * (db * J[j][0] + dc * J[j][1]);
    found.unshift({
      mean: mean.map((m, i) => m + J[i][0] * d[0] + J[i][1] * d[1]),
      cov: [a + both(0, 0), b + both(0, 1), c + both(1, 1)],
    });
  }
  return found;
}

// Drawing

const SVG = "http://www.w3.org/2000/svg";

function add(parent, name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return parent.appendChild(node);
}

function latentPanel(panel, { sheet, codes }) {
  const plane = panel.querySelector("svg"), sliders = [...panel.querySelectorAll("input")];
  const context = panel.querySelector("canvas").getContext("2d"), said = panel.querySelector("output");
  const picture = panel.querySelector("img"), SIDE = 200;
  const onPlane = (v, k) => (k ? sheet.high[1] - v : v - sheet.low[0]) / (sheet.high[k] - sheet.low[k]) * SIDE;
  for (const [first, second, height] of codes)
    add(plane, "circle", { cx: onPlane(first, 0), cy: onPlane(second, 1), r: 1.5,
      fill: `hsl(${40 + 240 * (1 - height)} 75% 55%)` });
  const cross = add(plane, "path", { d: "M-9 0H9M0 -9V9", class: "cross" });

  function show() {
    const point = sliders.map(s => s.valueAsNumber);
    cross.setAttribute("transform", `translate(${point.map(onPlane).join(" ")})`);
    context.globalCompositeOperation = "copy";
    for (const { column, row, weight } of neighbours(sheet, point)) {
      context.globalAlpha = weight;
      context.drawImage(picture, column * sheet.size, row * sheet.size, sheet.size, sheet.size, 0, 0, 32, 32);
      context.globalCompositeOperation = "lighter";
    }
    said.textContent = `a = (${point.map(v => v.toFixed(2)).join(", ")})`;
  }

  function place(point) {
    sliders.forEach((s, k) => { s.value = point[k]; });
    show();
  }

  function drag(event) {
    const box = plane.getBoundingClientRect();
    const share = [(event.clientX - box.left) / box.width, (box.bottom - event.clientY) / box.height];
    place(share.map((v, k) => sheet.low[k] + v * (sheet.high[k] - sheet.low[k])));
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
  plane.addEventListener("keydown", event => {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    place(sliders.map((s, k) => s.valueAsNumber + 0.1 * ARROWS[event.key][k]));
  });
  plane.addEventListener("pointerdown", event => { plane.setPointerCapture(event.pointerId); drag(event); });
  plane.addEventListener("pointermove", event => { if (plane.hasPointerCapture(event.pointerId)) drag(event); });
  sliders.forEach((s, k) => {
    [s.min, s.max, s.step] = [sheet.low[k], sheet.high[k], 0.01];
    s.addEventListener("input", show);
  });
  place(codes[0]);
  picture.decode().then(show);
}

function noisePanel(panel, { series }) {
  const plot = panel.querySelector("svg"), sliders = [...panel.querySelectorAll("input")];
  const said = panel.querySelector(".panel-said"), [WIDE, HIGH] = [600, 260];
  const given = series.y.filter(v => v !== null).concat(series.truth);
  const [low, high] = [Math.min(...given) - 3, Math.max(...given) + 3];
  const x = t => 10 + t / (series.y.length - 1) * (WIDE - 20), y = v => (high - v) / (high - low) * HIGH;
  const line = values => "M" + values.map((v, t) => `${x(t).toFixed(1)} ${y(v).toFixed(1)}`).join("L");
  const mean = steps => steps.map(s => s.mean[0]);
  const edge = (steps, side) => steps.map(s => s.mean[0] + side * 1.96 * Math.sqrt(s.cov[0]));
  const band = steps => line(edge(steps, 1)) + "L" +
    edge(steps, -1).map((v, t) => `${x(t).toFixed(1)} ${y(v).toFixed(1)}`).reverse().join("L") + "Z";
  const gap = series.y.map((v, t) => (v === null ? t : -1)).filter(t => t >= 0);
  add(plot, "rect", { x: x(gap[0] - 0.5), width: x(gap.at(-1) + 0.5) - x(gap[0] - 0.5), y: 0, height: HIGH, class: "gap" });
  const names = ["filter-band", "smoother-band", "filter", "smoother"];
  const drawn = Object.fromEntries(names.map(name => [name, add(plot, "path", { class: name })]));
  add(plot, "path", { class: "truth", d: line(series.truth) });
  series.y.forEach((v, t) => {
    if (v !== null) add(plot, "path", { d: "M-3 -3L3 3M-3 3L3 -3", class: "seen", transform: `translate(${x(t)} ${y(v)})` });
  });

  function show() {
    const [q, r] = sliders.map(s => 10 ** s.valueAsNumber);
    const { steps, evidence } = filter(series.y, q, r, series.start), smooth = smoother(steps);
    for (const [name, found] of [["filter", steps], ["smoother", smooth]]) {
      drawn[name].setAttribute("d", line(mean(found)));
      drawn[`${name}-band`].setAttribute("d", band(found));
    }
    const wrong = found => Math.sqrt(mean(found).reduce((s, m, t) => s + (m - series.truth[t]) ** 2, 0) / found.length);
    const text = [q.toPrecision(2), r.toPrecision(2)];
    sliders.forEach((s, k) => { s.parentElement.querySelector("output").textContent = text[k]; s.ariaValueText = text[k]; });
    said.textContent = `log evidence ${evidence.toFixed(1)} nats; root mean square error of the filter ` +
      `${wrong(steps).toFixed(2)}, of the smoother ${wrong(smooth).toFixed(2)}`;
  }

  function turn(q, r) {
    sliders[0].value = Math.log10(q);
    sliders[1].value = Math.log10(r);
    show();
  }

  sliders.forEach(s => s.addEventListener("input", show));
  panel.querySelector("button").addEventListener("click", () => turn(series.q, series.r));
  turn(series.q, 30 * series.r);
}

globalThis.panels = { neighbours, filter, smoother };
globalThis.document?.addEventListener("DOMContentLoaded", () => {
  const data = document.getElementById("panels-data");
  if (!data) return;
  const known = JSON.parse(data.textContent);
  latentPanel(document.getElementById("latent-panel"), known);
  noisePanel(document.getElementById("noise-panel"), known);
});
