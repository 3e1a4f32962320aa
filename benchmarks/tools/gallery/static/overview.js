// Filter and sort of the overview, with the choice in the address: #q=cov&family=clip&sort=pass@32.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("choice");
  const found = document.getElementById("found");
  const families = [...document.querySelectorAll("section.family")];
  const cards = families.flatMap((family) => [...family.querySelectorAll(".cards > li")]);
  const homes = new Map(cards.map((card) => [card, card.parentElement]));
  const texts = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));
  const fields = [...form.elements].filter((field) => field.name);
  const keys = { "pass@1": "pass-1", "pass@32": "pass-32" };
  const upwards = new Set(["name", "date", "lines"]); // the others from high to low

  const fits = (card, { q, family, lever, verdict }) =>
    q.toLowerCase().split(/\s+/).every((word) => texts.get(card).includes(word) || card.dataset.name.includes(word))
    && (!family || card.dataset.family === family)
    && (!lever || card.dataset.lever.split("|").includes(lever))
    && (!verdict || card.dataset.verdict === verdict);

  // Numbers in order, names by the alphabet, what has no value last.
  function compare(key) {
    const value = (card) => card.getAttribute(`data-${keys[key] || key}`) || "";
    return (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
      const order = key === "name" ? a.localeCompare(b) : Number(a) - Number(b);
      return upwards.has(key) ? order : -order;
    };
  }

  function show(choice) {
    const kept = cards.filter((card) => fits(card, choice));
    for (const card of cards) card.hidden = !kept.includes(card);
    const together = Boolean(choice.sort || choice.q || choice.lever || choice.verdict); // else by family
    found.hidden = !together;
    found.querySelector("h2").textContent = `Found, by ${form.elements.sort.selectedOptions[0].text}`;
    const inOrder = choice.sort ? [...cards].sort(compare(choice.sort)) : cards;
    for (const card of inOrder) (together ? found.querySelector("ul") : homes.get(card)).append(card);
    for (const family of families) family.hidden = together || !family.querySelector(".cards > li:not([hidden])");
    document.getElementById("count").textContent = kept.length;
  }

  const chosen = () => Object.fromEntries(fields.map((field) => [field.name, field.value.trim()]));

  function write() {
    const choice = chosen();
    const named = Object.entries(choice).filter(([, value]) => value);
    const hash = new URLSearchParams(named).toString().replaceAll("%40", "@");
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
    show(choice);
  }

  function read() {
    if (!location.hash.includes("=")) return; // an anchor
    const given = new URLSearchParams(location.hash.slice(1));
    for (const field of fields) {
      field.value = given.get(field.name) || "";
      if (field.selectedIndex === -1) field.value = ""; // a choice that is gone
    }
    show(chosen());
  }

  form.hidden = false;
  form.addEventListener("input", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(write));
  window.addEventListener("hashchange", read);
  read();
});
