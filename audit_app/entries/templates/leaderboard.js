"use strict";
// A click on a heading sorts its table: numbers from the largest, text from A; a second click reverses.
for (const heading of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => sortBy(heading));
}

function sortBy(heading) {
  const table = heading.closest("table");
  const body = table.tBodies[0];
  const numbers = heading.dataset.sort === "number";
  const before = heading.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numbers;
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => row.cells[heading.cellIndex].dataset.value;
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    return (descending ? -1 : 1) * (numbers ? Number(a) - Number(b) : a.localeCompare(b));
  });
  body.append(...rows);
}
