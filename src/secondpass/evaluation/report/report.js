// Sorts tables by a click on a head, filters long ones, opens what is folded before printing.
// Knows: tables of class "sortable". Refuses to know: what is in them. No angle opens and no ampersand
// stands in here, so that the page stays readable for every parser.
"use strict";

const LONG = 20;

function value(cell) {
  const words = cell.textContent;
  if (!cell.classList.contains("number")) return words.toLowerCase();
  const found = words.replace(/−/g, "-").replace(/,/g, "").match(/-?\d+(\.\d+)?/);
  return found ? Number(found[0]) : NaN;
}

function missing(one) {
  return Number.isNaN(one) || one === "";
}

function compare(a, b, down) {
  if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b)); // the unknown last, both ways
  const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return down ? -order : order;
}

function sort(table, column, down) {
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [value(row.cells[column]), row]);
  keyed.sort((a, b) => compare(a[0], b[0], down));
  body.append(...keyed.map((pair) => pair[1]));
  Array.from(table.tHead.rows[0].cells).forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

function sortable(table) {
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, column, head.getAttribute("aria-sort") === "ascending"));
  });
}

function filtered(table) {
  const rows = Array.from(table.tBodies[0].rows);
  const words = rows.map((row) => row.textContent.toLowerCase());
  const label = document.createElement("label");
  const box = document.createElement("input");
  const count = document.createElement("output");
  box.type = "search";
  label.className = "filter";
  label.append("Show rows with ", box, " ", count);
  box.addEventListener("input", () => {
    const wanted = box.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !words[at].includes(wanted);
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = wanted ? shown + " of " + rows.length : "";
  });
  table.parentElement.before(label);
}

for (const table of document.querySelectorAll("table.sortable")) {
  sortable(table);
  if (table.tBodies[0].rows.length > LONG) filtered(table);
}

let folded = [];
addEventListener("beforeprint", () => {
  folded = Array.from(document.querySelectorAll("details:not([open])"));
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
});
