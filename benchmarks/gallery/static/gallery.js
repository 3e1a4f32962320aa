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

function themeSwitch() {
  const order = ["auto", "light", "dark"];
  const button = document.createElement("button");
  button.type = "button";
  button.className = "theme";
  const label = () => { button.textContent = `Theme: ${stored.get()}`; };
  button.addEventListener("click", () => {
    stored.set(order[(order.indexOf(stored.get()) + 1) % order.length]);
    paint(stored.get());
    label();
  });
  label();
  document.querySelector("header.top").append(button);
}

document.addEventListener("DOMContentLoaded", () => {
  themeSwitch();
});
