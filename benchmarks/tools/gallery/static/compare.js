// Any two files side by side, as pages.py shows a file beside its parent: #dapo-nsr names them. What `lines`, `files`,
// `distance` and `regionTitles` are is said in files.js.
"use strict";

const CONTEXT = 3; // unchanged lines around a change

// Pairs [place in the old file, place in the new one] of a longest common subsequence.
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

function link(text, href) {
  const made = make("a", "", text);
  made.href = href;
  return made;
}

function cells(name, line, className) {
  if (!line) return [make("td", "n"), make("td", `${className.split(" ")[0]} none`)];
  const code = document.createElement("code");
  code.innerHTML = lines[files[name].lines[line - 1]];
  return [make("td", "n", link(String(line), `source/${name}.html#L${line}`)), make("td", className, code)];
}

const regionOf = (name, line) => Object.entries(files[name].regions).find(([, [a, b]]) => a <= line && line <= b)?.[0];

// Changes with their surroundings as tables of two columns, the rest folded; a region is named above its first change.
function listing(one, other, part) {
  const [[first, old], [freshFirst, fresh]] = [one, other].map((name) => {
    const { head, lines: all } = files[name];
    return part === "code" ? [head + 1, all.slice(head)] : [1, all.slice(0, head)];
  });
  const rows = rowsOf(old, fresh);
  const small = new Set();
  const near = new Set(rows.flatMap((row, at) => (row[2] ? Array.from({ length: 2 * CONTEXT + 1 }, (_, k) => at + k - CONTEXT) : [])));
  rows.forEach((_, at) => { // a fold that would save a line or two is not made
    const edge = (step) => { let to = at; while (rows[to] && !near.has(to)) to += step; return to; };
    if (!near.has(at) && edge(1) - edge(-1) <= 3) small.add(at);
  });
  small.forEach((at) => near.add(at));
  const made = make("div", "code");
  const named = new Set();
  for (let at = 0; at < rows.length;) {
    const shown = near.has(at);
    let end = at;
    while (end < rows.length && near.has(end) === shown) end++;
    const table = make("table", "two");
    table.innerHTML = `<colgroup><col class="n"><col><col class="n"><col></colgroup>
      <thead class="hidden"><tr><th scope="col">line</th><th scope="col">${one}.py</th><th scope="col">line</th><th scope="col">${other}.py</th></tr></thead>`;
    const body = table.createTBody();
    for (const [i, j, changed] of rows.slice(at, end)) {
      const [before, after] = [i < 0 ? 0 : first + i, j < 0 ? 0 : freshFirst + j];
      const region = changed && part === "code" && ((after && regionOf(other, after)) || (before && regionOf(one, before)));
      if (region && !named.has(region)) {
        named.add(region);
        const label = make("th", "", make("b", "", region), ` ${regionTitles[region]}`);
        label.colSpan = 4;
        body.append(make("tr", "label", label));
      }
      body.append(make("tr", changed ? "changed" : "same",
        ...cells(one, before, changed ? "old del" : "old"), ...cells(other, after, changed ? "new ins" : "new")));
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
  const named = [one, other].map((name) => make("span", "", link(`algos/${name}.py`, `algorithms/${name}.html`)));
  const head = make("details", "head", make("summary", "", "The head docstrings"), listing(one, other, "head"));
  place.replaceChildren(make("div", "diff", make("div", "files", ...named), listing(one, other, "code"), head));
  const count = distance[`${one}-${other}`] ?? distance[`${other}-${one}`] ?? 0;
  document.getElementById("count").textContent = one === other ? "The same file twice."
    : `${count} lines of code differ, docstrings and comments apart.`;
  document.title = `${one} → ${other} · entropy gallery`;
  document.querySelector(".tools .buttons")?.remove();
  diffTools();
}

document.addEventListener("DOMContentLoaded", () => {
  const choices = [...document.querySelectorAll("#choice select")];
  const read = () => {
    const [one, other] = location.hash.slice(1).split("-");
    if (one in files && other in files) [choices[0].value, choices[1].value] = [one, other];
    compare(...choices.map((choice) => choice.value));
  };
  const name = () => { location.hash = choices.map((choice) => choice.value).join("-"); };
  for (const choice of choices) choice.addEventListener("change", name);
  document.getElementById("swap").addEventListener("click", () => {
    [choices[0].value, choices[1].value] = [choices[1].value, choices[0].value];
    name();
  });
  window.addEventListener("hashchange", read);
  document.getElementById("choice").hidden = false;
  read();
});
