"use strict";
// Filters and sorts the tables, and draws the figures of what they show. The numbers are in #data, worked out before.

const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const MOST_LINES = 7, MOST_INTERVALS = 24;
const DASHES = ["", "7 3", "2 3", "8 3 2 3"];

// -- what is shown ---------------------------------------------------------------------------------------------------

/** The scope that was chosen, or "" for all. */
function chosenScope() {
  const choice = form.elements.data;
  return choice.value === "" ? "" : choice.selectedOptions[0].textContent;
}

/** The scopes to draw figures of: the chosen one, all data sets together where that may be said, or each. */
function drawnScopes() {
  if (chosenScope()) return [chosenScope()];
  return data.scopes[0] === data.all ? [data.all] : data.scopes;
}

/** The data sets to draw one by one. */
function drawnData() {
  return chosenScope() ? [chosenScope()] : data.scopes.filter((scope) => scope !== data.all);
}

/** Whether a row's learner and adapters pass the filters. */
function passes(row) {
  const learners = [...form.querySelectorAll("[name=learner]:checked")].map((box) => box.value);
  if (row.dataset.learner && !learners.includes(row.dataset.learner)) return false;
  const kinds = row.dataset.adapters.split(" ");
  return [...form.querySelectorAll("[name=adapter]")].every(
    (choice) => choice.value === "" || kinds.includes(choice.dataset.kind) === (choice.value === "1"),
  );
}

function filter() {
  const scope = chosenScope();
  for (const row of document.querySelectorAll("tr[data-learner]")) {
    row.hidden = !passes(row) || Boolean(scope && row.dataset.of && row.dataset.of !== scope);
  }
  for (const cell of document.querySelectorAll("[data-scope]")) {
    cell.hidden = Boolean(scope) && cell.dataset.scope !== scope;
  }
  // Where the filters stay in sight, what a link leads to must not end up below them.
  const above = getComputedStyle(form).position === "sticky" ? form.offsetHeight : 0;
  document.documentElement.style.scrollPaddingTop = `${above + 8}px`;
  const shown = shownStacks().length;
  document.getElementById("shown").textContent = `${shown} of ${data.stacks.length} stacks, ${scope || "all data sets"}`;
  draw();
}

const visibleRows = (table) => [...document.querySelectorAll(`#${table} > tbody > tr`)].filter((row) => !row.hidden);

/** Labels of the stacks that the filters leave, in the order of the scores table. */
const shownStacks = () => visibleRows("scores-table").map((row) => row.dataset.stack);

// -- sorting ---------------------------------------------------------------------------------------------------------

/** Sort by a column: numbers from the highest, words from A, and the other way round the second time. */
function sort(head) {
  const column = [...head.parentElement.children].indexOf(head);
  const numeric = head.classList.contains("number");
  const first = numeric ? "descending" : "ascending";
  const order = head.ariaSort === first ? (numeric ? "ascending" : "descending") : first;
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  const body = head.closest("table").tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    return { row, key: numeric ? Number.parseFloat(cell.dataset.value) : cell.textContent };
  });
  keyed.sort((a, b) => {
    if (!numeric) return sign * a.key.localeCompare(b.key);
    return Number.isNaN(a.key) - Number.isNaN(b.key) || sign * (a.key - b.key) || 0; // without a number: last
  });
  body.append(...keyed.map((entry) => entry.row));
  draw();
}

// -- drawing ---------------------------------------------------------------------------------------------------------

function element(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function html(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) values.push(i * step);
  return values;
}

/** The powers of ten from low to high; steps between them where there are too few. */
function decades(low, high) {
  const factors = Math.log10(high / low) > 2 ? [1] : [1, 2, 5];
  const values = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    values.push(...factors.map((factor) => factor * 10 ** power).filter((value) => value >= low && value <= high));
  }
  return values;
}

/** Short for an axis: 20k, 1.5M, 0.02. */
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
  if (size >= 1e3) return `${+(value / 1e3).toPrecision(4)}k`;
  return size > 0 && size < 1e-3 ? value.toExponential(0) : String(+value.toPrecision(4)).replace("-", "−");
}

/** The lowest and highest of all numbers, a little apart even where they are one. */
function range(values, margin = 0.04) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null && value !== undefined) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) return [0, 1];
  const apart = high - low, room = apart ? margin * apart : Math.abs(high) / 10 || 1;
  return [low - room, high + room];
}

function scale([low, high], [from, to], logarithmic = false) {
  const at = logarithmic ? Math.log10 : (value) => value;
  return (value) => from + ((at(value) - at(low)) / (at(high) - at(low))) * (to - from);
}

/** A path through the points that are there; it breaks where one is not. */
function path(x, y) {
  let text = "", pen = "M";
  x.forEach((at, i) => {
    if (y[i] === null) pen = "M";
    else [text, pen] = [`${text}${pen}${at.toFixed(1)} ${y[i].toFixed(1)}`, "L"];
  });
  return text;
}

function area(x, low, high) {
  const there = x.map((_, i) => i).filter((i) => low[i] !== null && high[i] !== null);
  const points = [...there.map((i) => [x[i], low[i]]), ...there.reverse().map((i) => [x[i], high[i]])];
  return points.length ? `M${points.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L")}Z` : "";
}

/** Figures that stand in the page and are not drawn yet: how wide they are is known once all of them stand. */
let pending = [];

function addFigure(place, caption, make) {
  const figure = html("figure", "", html("figcaption", "", caption));
  place.append(figure);
  pending.push(() => figure.append(make(Math.max(figure.clientWidth, 260))));
}

/** Lines over x in bands, each {label, x, y, low?, high?, seeds?}. */
function lines(width, caption, drawn, style, { xlabel, ylabel, height = 280, domain = null }) {
  const [left, right, top, bottom] = [52, 12, 12, 42];
  const all = drawn.flatMap((line) => [line.y, line.low ?? [], line.high ?? [], ...(line.seeds ?? [])].flat());
  const known = all.filter((value) => value !== null);
  const logarithmic = !domain && known.length > 0 && Math.min(...known) > 0 && Math.max(...known) > 100 * Math.min(...known);
  const across = range(drawn.flatMap((line) => line.x), 0);
  const up = domain ?? (logarithmic ? [Math.min(...known) / 1.2, Math.max(...known) * 1.2] : range(known));
  const x = scale(across, [left, width - right]), y = scale(up, [height - bottom, top], logarithmic);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${caption}: ${ylabel} over ${xlabel}. ${drawn.map((line) => line.label).join(", ")}` });
  for (const value of logarithmic ? decades(...up) : ticks(...up, height / 50)) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(...across, width / 90)) {
    svg.append(element("line", { class: "grid", x1: x(value), x2: x(value), y1: height - bottom, y2: height - bottom + 4 }));
    svg.append(element("text", { x: x(value), y: height - bottom + 17, "text-anchor": "middle" }, short(value)));
  }
  svg.append(element("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xlabel));
  svg.append(element("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)` }, ylabel));
  const upward = (values) => values.map((value) => (value === null ? null : y(value)));
  for (const line of drawn) {
    const at = line.x.map(x), { colour, dashes } = style(line.label), seeds = line.seeds ?? [];
    const stack = element("g", { class: "stack", stroke: colour, fill: "none" }, element("title", {}, line.label));
    if (line.low) stack.append(element("path", { class: "band", fill: colour, d: area(at, upward(line.low), upward(line.high)) }));
    if (seeds.length > 1) stack.append(...seeds.map((seed) => element("path", { class: "seed", d: path(at, upward(seed)) })));
    if (at.length > 1) stack.append(element("path", { class: "line", "stroke-dasharray": dashes, d: path(at, upward(line.y)) }));
    else if (line.y[0] !== null) stack.append(element("circle", { fill: colour, cx: at[0], cy: y(line.y[0]), r: 4 }));
    svg.append(stack);
  }
  return svg;
}

/** Estimates under each other, each {label, value, low, high}. */
function intervals(width, caption, drawn, xlabel, zero) {
  const narrow = width < 560;
  const longest = Math.max(...drawn.map((estimate) => estimate.label.length));
  const left = narrow ? 14 : Math.min(7 * longest + 20, width / 2), step = narrow ? 40 : 24;
  const top = 6, bottom = 40, height = top + bottom + step * drawn.length;
  const across = range([...drawn.flatMap((estimate) => [estimate.value, estimate.low, estimate.high]), ...(zero ? [0] : [])]);
  const x = scale(across, [left, width - 14]);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${caption}: ${xlabel}, with intervals. ${drawn.map((estimate) => `${estimate.label} ${estimate.value}`).join(", ")}` });
  for (const value of ticks(...across, (width - left) / 80)) {
    svg.append(element("line", { class: zero && value === 0 ? "zero" : "grid", x1: x(value), x2: x(value), y1: top, y2: height - bottom }));
    svg.append(element("text", { x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, short(value)));
  }
  svg.append(element("text", { x: (left + width) / 2, y: height - 5, "text-anchor": "middle" }, xlabel));
  drawn.forEach((estimate, i) => {
    const y = top + step * (i + 1) - 11;
    const label = narrow ? { x: 2, y: y - 12 } : { x: left - 10, y: y + 4, "text-anchor": "end" };
    svg.append(element("text", { class: "label", ...label }, estimate.label));
    const title = element("title", {}, `${estimate.label}: ${estimate.value}` + (estimate.low === null ? "" : ` [${estimate.low}, ${estimate.high}]`));
    const colour = "var(--c0)";
    if (estimate.low !== null) svg.append(element("line", { stroke: colour, "stroke-width": 2.5, x1: x(estimate.low), x2: x(estimate.high), y1: y, y2: y }));
    svg.append(element("circle", { fill: colour, cx: x(estimate.value), cy: y, r: 4.5 }, title));
  });
  return svg;
}

// -- the figures of the page -------------------------------------------------------------------------------------------

/** The stacks that figures draw, and how each looks: colours keep the order of the grid, whatever the table's. */
function drawnStacks() {
  const drawn = new Set(shownStacks().slice(0, MOST_LINES));
  return data.stacks.filter((stack) => drawn.has(stack));
}

function draw() {
  const stacks = drawnStacks();
  const style = (label) => ({ colour: `var(--c${stacks.indexOf(label)})`, dashes: DASHES[stacks.indexOf(label) % DASHES.length] });
  const among = (list, scope) => list.filter((entry) => entry.scope === scope && stacks.includes(entry.label))
    .sort((a, b) => stacks.indexOf(a.label) - stacks.indexOf(b.label));
  const places = Object.fromEntries([...document.querySelectorAll("[data-figure]")].map((place) => [place.dataset.figure, place]));
  for (const place of Object.values(places)) place.replaceChildren();
  drawLegends(stacks, style);
  drawIntervals(places);
  const addLines = (place, caption, of, labels) => addFigure(place, caption, (width) => lines(width, caption, of, style, labels));
  for (const scope of drawnScopes()) {
    const curves = among(data.profiles, scope).map((profile) => ({ ...profile, x: data.thresholds }));
    const labels = { xlabel: "normalised score", ylabel: "share of seeds above", domain: [0, 1.02] };
    if (curves.length) addLines(places.profiles, scope, curves, labels);
  }
  for (const scope of drawnData()) {
    const labels = { xlabel: "steps (minibatches)", ylabel: data.units[scope] };
    const curves = among(data.curves, scope).filter((curve) => curve.x.length);
    if (curves.length) addLines(places.curves, scope, curves, labels);
    const quantities = among(data.quantities, scope);
    if (quantities.length) places.quantities.append(html("h3", "", scope));
    for (const name of new Set(quantities.map((quantity) => quantity.name))) {
      const of = quantities.filter((quantity) => quantity.name === name);
      addLines(places.quantities, name, of, { xlabel: "steps", ylabel: "", height: 190 });
    }
  }
  for (const make of pending) make();
  pending = [];
  for (const place of Object.values(places)) {
    if (!place.childElementCount) place.append(html("p", "note", "Nothing to draw of what the filters leave."));
  }
}

function drawIntervals(places) {
  for (const scope of drawnScopes()) {
    const stacks = shownStacks(), unit = data.units[scope];
    const scored = stacks.flatMap((stack) => data.scores.filter((score) => score.scope === scope && score.label === stack));
    addIntervals(places.scores, scope, scored, unit, false);
    const all = [...document.querySelector("#effects-table tbody")?.rows ?? []].filter((row) => !row.hidden);
    const rows = all.flatMap((row) => data.effects.filter((effect) => effect.scope === scope && effect.row === Number(row.dataset.row)));
    addIntervals(places.effects, scope, rows, `difference, ${unit}`, true);
  }
}

/** Intervals of as many as can be read; the caption says if there are more. */
function addIntervals(place, scope, of, xlabel, zero) {
  const drawn = of.slice(0, MOST_INTERVALS);
  const caption = drawn.length < of.length ? `${scope}: the first ${drawn.length} of ${of.length} in the table's order` : scope;
  if (drawn.length) addFigure(place, caption, (width) => intervals(width, caption, drawn, xlabel, zero));
}

function drawLegends(stacks, style) {
  for (const legend of document.querySelectorAll(".legend")) {
    legend.replaceChildren(...stacks.map((stack) => {
      const { colour, dashes } = style(stack);
      const line = element("line", { x1: 0, x2: 28, y1: 6, y2: 6, stroke: colour, "stroke-width": 3, "stroke-dasharray": dashes });
      return html("li", "", element("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" }, line), stack);
    }));
    const left = shownStacks().length - stacks.length;
    if (left > 0) legend.append(html("li", "note", `and ${left} more in the scores table: figures draw its first ${MOST_LINES}; filter or sort it to see others`));
  }
}

// -- wiring ----------------------------------------------------------------------------------------------------------

form.addEventListener("change", filter);
form.addEventListener("reset", () => setTimeout(filter)); // once the form has its first values again
form.addEventListener("submit", (event) => event.preventDefault());
for (const head of document.querySelectorAll(".scroll > table > thead th")) {
  head.querySelector("button")?.addEventListener("click", () => sort(head));
}
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) draw();
  width = window.innerWidth;
});
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("#runs details")) details.open = true;
});
filter();
