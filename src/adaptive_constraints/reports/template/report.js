"use strict";
// Filters and sorts the tables, and has Vega draw the figures of what they show. Charts and rows are in #data, made before.

const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");

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
  document.getElementById("shown").textContent = `${shown} of ${document.querySelectorAll("#scores-table > tbody > tr").length} stacks, ${scope || "all data sets"}`;
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
}

// -- drawing ---------------------------------------------------------------------------------------------------------

const dark = window.matchMedia("(prefers-color-scheme: dark)");

/** Counts drawings: one that has been overtaken stops. */
let drawing = 0;

function html(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** What a row is of: a stack, or the number of an effect; undefined for what is of none. */
const key = (row) => row.row ?? row.stack ?? row.name;

/** The rows that the filters leave, of as many as can be told apart: rows stand there with the best first. */
function chosenRows(figure, stacks, effects) {
  const passing = figure.section === "effects" ? (row) => effects.has(row.row) : (row) => key(row) === undefined || stacks.has(key(row));
  const left = figure.rows.filter(passing);
  const keys = [...new Set(left.map(key))].filter((one) => one !== undefined);
  const kept = new Set(keys.slice(0, data.most[figure.section]));
  return { rows: left.filter((row) => key(row) === undefined || kept.has(key(row))), count: keys.length, drawn: kept.size };
}

/** The one number that all lines or estimates are; null where they differ. */
function allEqual(rows) {
  const shown = rows.flatMap((row) => [row.y, row.value, row.low, row.high, row.own].flat());
  const known = new Set(shown.filter((value) => value !== null && value !== undefined));
  return known.size === 1 ? [...known][0] : null;
}

/** A name in lines of so many letters, broken between its words where that can be. */
function wrapped(name, letters) {
  const lines = [""];
  for (const word of name.split(" ")) {
    for (let rest = word; rest !== "" || word === ""; rest = rest.slice(letters)) {
      const joined = lines.at(-1) === "" ? rest : `${lines.at(-1)} ${rest}`;
      if (joined.length <= letters) lines[lines.length - 1] = joined;
      else lines.push(rest.slice(0, letters));
      if (rest.length <= letters) break;
    }
  }
  return lines.filter((line) => line !== "").join("\n");
}

/** The chart of rows at a width: its legend names what they hold, in as many columns as fit, a long name in lines. */
function filled(chart, rows, width) {
  const letters = Math.max(32, Math.floor(width / data.letter));
  const full = structuredClone(chart);
  full.width = "container";
  full.data = { values: rows.map((row) => (row.name === undefined ? row : { ...row, lines: wrapped(row.name, letters) })) };
  const names = [...new Set(rows.map((row) => row.stack).filter((name) => name !== undefined))];
  if (names.length) {
    const longest = Math.max(...names.map((name) => name.length)) * data.letter + 50;
    const lines = Object.fromEntries(names.map((name) => [name, wrapped(name, letters - Math.ceil(data.beside / data.letter) - 6).split("\n")]));
    const legend = {
      values: names,
      columns: width < data.oneColumn ? 1 : Math.max(1, Math.min(names.length, Math.floor((width - data.beside) / longest))),
      labelExpr: `(${JSON.stringify(lines)})[datum.label]`,
    };
    const channels = full.layer.flatMap((layer) => Object.values(layer.encoding));
    for (const channel of channels) if (channel.legend) Object.assign(channel.legend, legend);
  } else {
    const most = Math.max(...full.data.values.map((row) => row.lines.split("\n").length));
    full.height = rows.length * (data.step[0] + data.step[1] * most);
  }
  return full;
}

/** A figure in its place: the chart that is yet to be drawn, or the sentence that says as much. */
function addFigure(place, figure, { rows, count, drawn }) {
  const first = figure.section === "effects" ? "first" : "best";
  const caption = drawn < count ? `${figure.title}: the ${first} ${drawn} of ${count}` : figure.title;
  const made = html("figure", "", html("figcaption", "", caption));
  const equal = allEqual(rows);
  place.append(made);
  if (equal !== null) {
    made.append(html("p", "note", `All equal: ${equal}.`));
    return [];
  }
  const chart = html("div", "chart");
  made.append(chart);
  return [async () => {
    const full = filled(data.charts[figure.chart], rows, chart.clientWidth);
    full.description = `${caption}: ${[...new Set(rows.map((row) => row.name ?? row.stack).filter(Boolean))].join(", ")}`;
    await vegaEmbed(chart, full, {
      ast: true, // the page's own policy forbids code made of text
      renderer: "svg",
      config: data.config[dark.matches ? "dark" : "light"],
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: caption.replace(/[^A-Za-z0-9_.+]+/g, "-"),
      logLevel: 1, // errors alone
    });
  }];
}

async function draw() {
  const turn = ++drawing, main = document.querySelector("main");
  main.ariaBusy = "true";
  const stacks = new Set(shownStacks()), scopes = drawnScopes(), sets = drawnData();
  const effects = new Set(visibleRows("effects-table").map((row) => Number(row.dataset.row)));
  const pending = [];
  for (const place of document.querySelectorAll("[data-figure]")) {
    const section = place.dataset.figure;
    place.replaceChildren();
    const single = section === "curves" || section === "quantities";
    for (const scope of single ? sets : scopes) {
      let headed = section !== "quantities";
      for (const figure of data.figures.filter((one) => one.section === section && one.scope === scope)) {
        const chosen = chosenRows(figure, stacks, effects);
        if (!chosen.drawn) continue;
        if (!headed) place.append(html("h3", "", scope));
        headed = true;
        pending.push(...addFigure(place, figure, chosen));
      }
    }
    if (!place.childElementCount) place.append(html("p", "note", "Nothing to draw of what the filters leave."));
  }
  // One after another, so that the page answers meanwhile.
  for (const make of pending) {
    if (turn !== drawing) return;
    await make();
  }
  main.ariaBusy = "false";
}

// -- wiring ----------------------------------------------------------------------------------------------------------

form.addEventListener("change", filter);
form.addEventListener("reset", () => setTimeout(filter)); // once the form has its first values again
form.addEventListener("submit", (event) => event.preventDefault());
for (const head of document.querySelectorAll(".scroll > table > thead th")) {
  head.querySelector("button")?.addEventListener("click", () => sort(head));
}
dark.addEventListener("change", draw);
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) draw();
  width = window.innerWidth;
});
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("#runs details")) details.open = true;
});
filter();
