// Sorting, filtering and readings of charts. Pages are whole without it; it reads nothing but the page that it is on.
"use strict";

// ------------------------------------------------------------------------------------------------ sorting

function valueOf(cell) {
  const given = cell.dataset.v;
  const words = given === undefined ? cell.textContent.trim() : given;
  return words === "-" ? "" : words;
}

// What is missing stands last, whichever way the rest is sorted.
function compareRows(column, numeric, direction) {
  return (one, other) => {
    const [a, b] = [valueOf(one.cells[column]), valueOf(other.cells[column])];
    if (a === "" || b === "") return (a === "") - (b === "");
    return direction * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, {numeric: true}));
  };
}

function sortBy(table, head) {
  const falling = head.getAttribute("aria-sort") !== "descending" && (head.dataset.kind === "number" || head.hasAttribute("aria-sort"));
  const direction = falling ? -1 : 1;
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort(compareRows(head.cellIndex, head.dataset.kind === "number", direction));
  body.append(...rows);
}

function makeSortable(table) {
  for (const head of table.tHead.querySelectorAll("tr:last-child th:not([data-fixed])")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(table, head));
  }
}

// ---------------------------------------------------------------------------------------------- filtering

// What a row is compared with is no property of it.
function ownWords(row) {
  return [...row.cells].filter((cell) => !cell.classList.contains("against")).map((cell) => cell.textContent).join(" ").toLowerCase();
}

function matches(row, wanted) {
  const words = (wanted.get("words") || "").toLowerCase();
  for (const [name, value] of wanted) {
    if (name !== "words" && value && row.dataset[name] !== value) return false;
  }
  return !words || ownWords(row).includes(words);
}

function applyFilters(form, table) {
  const wanted = new FormData(form);
  const shown = new Set();
  for (const row of table.tBodies[0].rows) {
    row.hidden = !matches(row, wanted);
    if (!row.hidden) shown.add(row.id);
  }
  for (const dot of document.querySelectorAll("[data-row]")) dot.style.display = shown.has(dot.dataset.row) ? "" : "none";
  form.querySelector("output").value = `${shown.size} of ${table.tBodies[0].rows.length} rows`;
  const kept = [...wanted].filter(([, value]) => value);
  history.replaceState(null, "", kept.length ? `#${new URLSearchParams(kept)}` : location.pathname);
}

function makeFilters(form) {
  const table = document.getElementById(form.dataset.filters);
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (form.elements[name]) form.elements[name].value = value;
  }
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => applyFilters(form, table));
  form.addEventListener("reset", () => setTimeout(() => applyFilters(form, table)));
  applyFilters(form, table);
}

// ------------------------------------------------------------------------------------------- long tables

function shorten(table) {
  const rows = [...table.tBodies[0].rows].slice(Number(table.dataset.first));
  const isAimedAt = () => rows.some((row) => `#${row.id}` === location.hash);
  if (!rows.length || isAimedAt()) return;
  for (const row of rows) row.hidden = true;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "more";
  button.textContent = `Show ${rows.length} more`;
  const showAll = () => {
    for (const row of rows) row.hidden = false;
    button.remove();
  };
  button.addEventListener("click", showAll);
  addEventListener("hashchange", () => isAimedAt() && showAll());
  table.after(button);
}

// ----------------------------------------------------------------------------------------- inside a page

function listSections(nav) {
  const list = nav.querySelector("ul");
  for (const heading of document.querySelectorAll("main h2[id]")) {
    const link = document.createElement("a");
    link.href = `#${heading.id}`;
    link.textContent = heading.textContent;
    const item = document.createElement("li");
    item.append(link);
    list.append(item);
  }
}

// -------------------------------------------------------------------------------------- readings of charts

// A path begins at a point and goes on in steps.
function pointsOf(path) {
  const numbers = path.getAttribute("d").match(/-?[\d.]+/g).map(Number);
  const points = [];
  let [x, y] = [0, 0];
  for (let at = 0; at < numbers.length; at += 2) points.push([(x += numbers[at]), (y += numbers[at + 1])]);
  return points;
}

function nearest(points, x) {
  return points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
}

function words(value) {
  return String(Number(value.toPrecision(3)));
}

function makeReadable(svg) {
  const [x0, x1] = svg.dataset.x.split(" ").map(Number);
  const [y0, y1] = svg.dataset.y.split(" ").map(Number);
  const [left, right, top, bottom] = svg.dataset.box.split(" ").map(Number);
  const lines = [...svg.querySelectorAll(".line")].map((path) => ({name: path.dataset.name, points: pointsOf(path)}));
  if (!lines.length) return;
  const box = document.createElement("div");
  box.className = "reading";
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");

  svg.addEventListener("pointermove", (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const [x] = nearest(lines[0].points, Math.min(Math.max(place.x, left), right));
    const read = lines.map(({name, points}) => {
      const y = nearest(points, x)[1];
      return `${name} ${words(y0 + ((bottom - y) / (bottom - top)) * (y1 - y0))}`;
    });
    box.textContent = [words(x0 + ((x - left) / (right - left)) * (x1 - x0)), ...read].join("\n");
    cursor.setAttribute("d", `M${x} ${top}V${bottom}`);
    const edge = svg.parentNode.getBoundingClientRect();
    const beside = event.clientX - edge.left;
    box.style.top = `${event.clientY - edge.top + 12}px`;
    box.style.left = beside < edge.width / 2 ? `${beside + 12}px` : "";
    box.style.right = beside < edge.width / 2 ? "" : `${edge.width - beside + 12}px`;
    if (!box.isConnected) svg.after(box), svg.append(cursor);
  });
  svg.addEventListener("pointerleave", () => {
    box.remove();
    cursor.remove();
  });
}

document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
document.querySelectorAll("form[data-filters]").forEach(makeFilters);
document.querySelectorAll("table[data-first]").forEach(shorten);
document.querySelectorAll("nav.inside").forEach(listSections);
document.querySelectorAll(".chart > svg").forEach(makeReadable);
