// The explorer with JavaScript: a tooltip on hover and focus, arrow keys between tokens, a filter.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const groups = document.querySelector(".groups");
  if (!groups) return;

  // --- Tooltip: what the title attribute says, as a table ---
  const tooltip = document.createElement("div");
  tooltip.className = "tooltip";
  tooltip.id = "token-numbers";
  tooltip.setAttribute("role", "tooltip");
  tooltip.hidden = true;
  document.body.append(tooltip);
  let shown = null;

  function show(token) {
    hide();
    shown = token;
    token.dataset.title = token.title; // else the browser's own tooltip lies over this one
    token.removeAttribute("title");
    const table = document.createElement("table");
    for (const line of token.dataset.title.split("\n")) {
      const [, name, value] = /^(log p|\S+) (.*)$/.exec(line);
      const row = table.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      row.insertCell().textContent = value;
    }
    tooltip.replaceChildren(table);
    tooltip.hidden = false;
    token.setAttribute("aria-describedby", tooltip.id);
    const box = token.getClientRects()[0];
    const own = tooltip.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const below = box.bottom + own.height + 8 < window.innerHeight || box.top < own.height + 8;
    tooltip.style.left = `${window.scrollX + Math.max(8, Math.min(box.left, width - own.width - 8))}px`;
    tooltip.style.top = `${window.scrollY + (below ? box.bottom + 6 : box.top - own.height - 6)}px`;
  }

  function hide() {
    if (shown) {
      shown.title = shown.dataset.title;
      shown.removeAttribute("aria-describedby");
    }
    shown = null;
    tooltip.hidden = true;
  }

  const tokenAt = (event) => event.target.closest?.(".t");
  groups.addEventListener("pointerover", (event) => { const token = tokenAt(event); if (token && token !== shown) show(token); });
  groups.addEventListener("pointerout", (event) => { if (tokenAt(event) === shown && document.activeElement !== shown) hide(); });
  groups.addEventListener("focusin", (event) => { const token = tokenAt(event); if (token) show(token); });
  groups.addEventListener("focusout", hide);

  // --- Keyboard: one stop per response, arrows inside ---
  for (const tokens of groups.querySelectorAll(".tokens")) {
    [...tokens.children].forEach((token, i) => { token.tabIndex = i ? -1 : 0; });
  }
  groups.addEventListener("keydown", (event) => {
    const token = tokenAt(event);
    if (event.key === "Escape") hide();
    if (!token) return;
    const others = [...token.parentElement.children];
    const at = others.indexOf(token);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: others.length - 1 }[event.key];
    if (others[to]) {
      token.tabIndex = -1;
      others[to].tabIndex = 0;
      others[to].focus();
      event.preventDefault();
    }
  });

  // --- Filter ---
  const choices = [
    ["all responses", () => true, () => true],
    ["right responses", () => true, (one) => one.classList.contains("right")],
    ["wrong responses", () => true, (one) => one.classList.contains("wrong")],
    ["mixed groups", (group) => group.dataset.kind === "mixed", () => true],
    ["groups all right", (group) => group.dataset.kind === "right", () => true],
    ["groups all wrong", (group) => group.dataset.kind === "wrong", () => true],
  ];
  const apply = ([, wantsGroup, wantsResponse], write) => {
    let count = 0;
    for (const group of groups.children) {
      let some = false;
      for (const one of group.querySelectorAll(".response")) {
        const keep = wantsGroup(group) && wantsResponse(one);
        if (write) one.hidden = !keep;
        some ||= keep;
        count += keep;
      }
      if (write) group.hidden = !some;
    }
    return count;
  };
  const label = document.createElement("label");
  label.className = "filter";
  const select = document.createElement("select");
  choices.forEach((choice, i) => {
    const count = apply(choice, false);
    if (count) select.add(new Option(`${choice[0]} (${count})`, i));
  });
  label.append("Show ", select);
  select.addEventListener("change", () => { hide(); apply(choices[select.value], true); });
  document.querySelector(".controls fieldset.channel").append(label);
});
