// Conveniences. Every page reads and links the same without this file.
"use strict";

const stored = {
  get: () => { try { return localStorage.getItem("theme") || "auto"; } catch { return "auto"; } },
  set: (value) => { try { localStorage.setItem("theme", value); } catch { /* not kept, then */ } },
};

function paint(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

paint(stored.get()); // before the body is drawn

function button(text, act, className = "") {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.textContent = text;
  made.addEventListener("click", () => act(made));
  return made;
}

function themeSwitch() {
  const order = ["auto", "light", "dark"];
  let theme = stored.get();
  document.querySelector("header.top").append(button(`Theme: ${theme}`, (made) => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    stored.set(theme);
    paint(theme);
    made.textContent = `Theme: ${theme}`;
  }, "theme"));
}

function copyButtons() {
  if (!navigator.clipboard) return;
  for (const block of document.querySelectorAll("pre.command")) {
    const text = block.textContent;
    block.append(button("Copy", async (made) => {
      await navigator.clipboard.writeText(text);
      made.textContent = "Copied";
      setTimeout(() => { made.textContent = "Copy"; }, 1500);
    }, "copy"));
  }
}

// Diffs: unfold everything where something is folded, and go from change to change with n and p.
let toChange = null;

function diffTools() {
  const diff = document.querySelector(".diff");
  if (!diff) return;
  const folds = [...diff.querySelectorAll("details.fold")];
  const hunks = [...diff.querySelectorAll(":scope > .code .hunk")];
  let open = false;
  let at = -1;
  toChange = (step) => {
    if (!hunks.length) return;
    at = Math.max(0, Math.min(hunks.length - 1, at + step));
    hunks[at].focus({ preventScroll: true });
    hunks[at].scrollIntoView({ block: "center" });
  };
  const row = document.createElement("div");
  row.className = "buttons";
  if (folds.length) {
    row.append(button("Show unchanged lines", (made) => {
      open = !open;
      for (const fold of folds) fold.open = open;
      made.textContent = open ? "Hide unchanged lines" : "Show unchanged lines";
    }));
  }
  row.append(button("Previous (p)", () => toChange(-1)), button("Next (n)", () => toChange(1)));
  document.querySelector(".tools").append(row);
}

document.addEventListener("keydown", (event) => {
  if (!toChange || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "n") toChange(1);
  if (event.key === "p") toChange(-1);
});

document.addEventListener("DOMContentLoaded", () => {
  themeSwitch();
  copyButtons();
  diffTools();
});
