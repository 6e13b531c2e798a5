// What every page does: tables are sorted by their headings, figures are enlarged and saved, lists filtered.
"use strict";

// Tables: the value of a cell is the number it begins with, or else its text; what is missing comes last.
function cellValue(row, at) {
  const text = row.cells[at].textContent.trim();
  if (text === "" || text === "–") return null;
  const number = parseFloat(text.replace(/^[^\d.+-]*±/, ""));
  return /^[+-]?[\d.]/.test(text) && !Number.isNaN(number) ? number : text.toLowerCase();
}

function sortBy(heading) {
  const table = heading.closest("table"), body = table.tBodies[0], at = heading.cellIndex;
  const upwards = heading.getAttribute("aria-sort") !== "ascending";
  const order = (a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    const both = typeof a.key === "number" && typeof b.key === "number";
    const found = both ? a.key - b.key : String(a.key).localeCompare(String(b.key));
    return upwards ? found : -found;
  };
  const rows = [...body.rows].map((row) => ({ row, key: cellValue(row, at) })).sort(order);
  body.append(...rows.map(({ row }) => row));
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
  table.classList.add("sorted");
}

// Figures: a dialog, which Escape closes, and files of what is on the page.
function enlarge(picture) {
  const dialog = document.createElement("dialog"), close = document.createElement("button");
  dialog.className = "large";
  dialog.setAttribute("aria-label", picture.alt);
  close.textContent = "Close";
  close.onclick = () => dialog.close();
  dialog.append(close, picture.cloneNode());
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  dialog.onclose = () => dialog.remove();
  document.body.append(dialog);
  dialog.showModal();
}

function savePng(link, picture) {
  const canvas = document.createElement("canvas"), scale = 2000 / picture.naturalWidth;
  canvas.width = 2000;
  canvas.height = picture.naturalHeight * scale;
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  link.href = canvas.toDataURL("image/png");
}

// Lists: entries stay that have the words and the verdict.
function filterList(box) {
  const words = box.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = box.querySelector("select").value;
  let shown = 0;
  for (const entry of document.querySelectorAll("[data-verdicts]")) {
    const text = entry.textContent.toLowerCase();
    entry.hidden = !(words.every((word) => text.includes(word)) &&
      (!verdict || entry.dataset.verdicts.split(" ").includes(verdict)));
    shown += !entry.hidden;
  }
  box.querySelector("output").textContent = `${shown} shown`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button, a");
  if (!button) return;
  if (button.matches(".sort")) sortBy(button.closest("th"));
  if (button.matches(".enlarge")) enlarge(button.querySelector("img"));
  if (button.matches("[data-save=png]")) savePng(button, button.closest("figure").querySelector("img"));
});
for (const link of document.querySelectorAll("[data-save=svg]")) {
  link.href = link.closest("figure").querySelector("img").src;
}
for (const box of document.querySelectorAll(".filter")) {
  box.addEventListener("input", () => filterList(box));
}
