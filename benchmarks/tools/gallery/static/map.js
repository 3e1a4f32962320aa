// The table of distances with the keyboard: one stop of the Tab key, arrows inside.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector(".matrix");
  const rows = [...table.querySelectorAll("tbody tr:not(.group)")].map((row) => [...row.cells].slice(1).map((cell) => cell.querySelector("a")));
  rows.flat().forEach((link) => { if (link) link.tabIndex = -1; });
  let current = rows.flat().find(Boolean);
  if (current) current.tabIndex = 0;
  const move = (link) => {
    current.tabIndex = -1;
    current = link;
    current.tabIndex = 0;
  };
  table.addEventListener("focusin", (event) => { if (rows.flat().includes(event.target)) move(event.target); });
  table.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] || [0, 0];
    let y = rows.findIndex((row) => row.includes(event.target));
    if (y < 0 || !(down || right)) return;
    let x = rows[y].indexOf(event.target);
    do { [y, x] = [y + down, x + right]; } while (rows[y] && x in rows[y] && !rows[y][x]); // over the diagonal
    if (rows[y]?.[x]) {
      rows[y][x].focus();
      event.preventDefault();
    }
  });
});
