// Any two files side by side, as pages.py shows a file beside its parent: #dapo-nsr names them. `files` is in files.js.
"use strict";

const CONTEXT = 3; // unchanged lines around a change

// Pairs [line of the old file, line of the new one] of a longest common subsequence.
function common(old, fresh) {
  const width = fresh.length + 1;
  const longest = new Uint16Array((old.length + 1) * width);
  for (let i = old.length - 1; i >= 0; i--)
    for (let j = fresh.length - 1; j >= 0; j--)
      longest[i * width + j] = old[i] === fresh[j] ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const pairs = [];
  for (let i = 0, j = 0; i < old.length && j < fresh.length;) {
    if (old[i] === fresh[j]) pairs.push([i++, j++]);
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return pairs;
}

// Rows [old index or -1, new index or -1, whether it changed].
function rowsOf(old, fresh) {
  const rows = [];
  let a = 0;
  let b = 0;
  for (const [i, j] of [...common(old, fresh), [old.length, fresh.length]]) {
    for (let k = 0; k < Math.max(i - a, j - b); k++) rows.push([a + k < i ? a + k : -1, b + k < j ? b + k : -1, true]);
    if (i < old.length) rows.push([i, j, false]);
    [a, b] = [i + 1, j + 1];
  }
  return rows;
}

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function cells(name, index, first, html, className) {
  if (index < 0) return [make("td", "n"), make("td", `${className.split(" ")[0]} none`)];
  const line = first + index + 1;
  const link = make("a", "", String(line));
  link.href = `source/${name}.html#L${line}`;
  const code = document.createElement("code");
  code.innerHTML = html[index];
  return [make("td", "n", link), make("td", className, code)];
}

// Changes with their surroundings as tables of two columns, the rest folded.
function listing(one, other, part) {
  const [old, fresh] = [one, other].map((name) => files[name][part]);
  const [oldFirst, freshFirst] = [one, other].map((name) => (part === "code" ? files[name].head.length : 0));
  const rows = rowsOf(old, fresh);
  const near = new Set(rows.flatMap((row, at) => (row[2] ? Array.from({ length: 2 * CONTEXT + 1 }, (_, k) => at + k - CONTEXT) : [])));
  const made = make("div", "code");
  for (let at = 0; at < rows.length;) {
    const shown = near.has(at);
    let end = at;
    while (end < rows.length && near.has(end) === shown) end++;
    const table = make("table", "two");
    table.innerHTML = '<colgroup><col class="n"><col><col class="n"><col></colgroup>';
    for (const [i, j, changed] of rows.slice(at, end)) {
      table.append(make("tr", changed ? "changed" : "same",
        ...cells(one, i, oldFirst, old, changed ? "old del" : "old"),
        ...cells(other, j, freshFirst, fresh, changed ? "new ins" : "new")));
    }
    if (shown) {
      const hunk = make("section", "hunk", table);
      hunk.tabIndex = -1;
      made.append(hunk);
    } else {
      made.append(make("details", "fold", make("summary", "", `${end - at} unchanged lines`), table));
    }
    at = end;
  }
  return made;
}

function compare(one, other) {
  const place = document.getElementById("comparison");
  const named = [one, other].map((name) => make("span", "", `algos/${name}.py`));
  const head = make("details", "head", make("summary", "", "The head docstrings"), listing(one, other, "head"));
  place.replaceChildren(make("div", "diff", make("div", "files", ...named), listing(one, other, "code"), head));
  document.title = `${one} → ${other} · entropy gallery`;
  document.querySelector(".tools .buttons")?.remove();
  diffTools();
}

document.addEventListener("DOMContentLoaded", () => {
  const choices = [...document.querySelectorAll("#choice select")];
  const show = () => compare(...choices.map((choice) => choice.value));
  const read = () => {
    const [one, other] = location.hash.slice(1).split("-");
    if (one in files && other in files) [choices[0].value, choices[1].value] = [one, other];
    show();
  };
  for (const choice of choices) {
    choice.addEventListener("change", () => { location.hash = choices.map((each) => each.value).join("-"); });
  }
  window.addEventListener("hashchange", read);
  document.getElementById("choice").hidden = false;
  read();
});
