// The page without this script shows the same numbers. The script sorts and filters tables, and shows the numbers of
// a figure's marks where the pointer is.
"use strict";

const collator = new Intl.Collator("en", { numeric: true });

// -- tables -----------------------------------------------------------------------------------------------------------

function value(row, column) {
  const cell = row.cells[column];
  // ∞ is a number above all others, which is how it is written for the collator.
  return cell.dataset.value ?? cell.textContent.trim().replace("−", "-").replace("∞", "1000000000");
}

// Numbers come first, by size; then words, by letter.
function compare(a, b) {
  const [x, y] = [parseFloat(a), parseFloat(b)];
  const [left, right] = [/^[-+]?[\d.]/.test(a), /^[-+]?[\d.]/.test(b)];
  if (left && right && x !== y) return x - y;
  return right - left || collator.compare(a, b);
}

function sort(table, header) {
  const turn = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [value(row, header.cellIndex), row]);
  keyed.sort(([a], [b]) => turn * compare(a, b));
  body.append(...keyed.map(([, row]) => row));
}

// A row stays if it has every word of the filter.
function filter(table, words, counted) {
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  counted.textContent = `${shown} of ${table.tBodies[0].rows.length}`;
}

for (const table of document.querySelectorAll("table.sorted")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
}

for (const search of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(search.dataset.filters);
  const counted = search.parentElement.querySelector("output");
  const apply = () => filter(table, search.value.toLowerCase().split(/\s+/), counted);
  search.parentElement.hidden = false;
  search.addEventListener("input", apply);
  apply(); // a browser that goes back keeps what was typed
}

// A link to a row that the filter hides shows all rows again.
addEventListener("hashchange", () => {
  const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!row || !row.hidden) return;
  const search = document.querySelector(`input[data-filters="${row.closest("table").id}"]`);
  search.value = "";
  search.dispatchEvent(new Event("input"));
  row.scrollIntoView();
});

// -- figures ----------------------------------------------------------------------------------------------------------

const tip = document.getElementById("tip");

// The browser's own tooltip comes late, and never on a phone.
for (const title of document.querySelectorAll("svg title")) {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
}

function show(event) {
  const mark = event.target.closest("[data-tip]");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.dataset.tip;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, room))}px`;
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
}

for (const name of ["pointerover", "pointerdown"]) document.addEventListener(name, show);
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
