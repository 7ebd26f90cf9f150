// The tabs of the page, chosen by the address's hash (#extract, #run): `addTab({id, word, mount})`.

import {el} from "./dom.js";
import {applyWords} from "./words.js";

const tabs = [];

// Adds a tab. `word` is the key of its title. `mount(panel)` fills its section when it is first shown, and may
// return {shown(), hidden()}, called whenever it comes and goes: what polls a server stops while it is hidden.
export function addTab({id, word, mount}) {
  const link = el("a", {href: `#${id}`, id: `tab-${id}`, role: "tab", "aria-controls": id, word});
  const panel = el("section", {id, role: "tabpanel", "aria-labelledby": `tab-${id}`, class: "panel", hidden: true});
  document.querySelector("nav").append(link);
  document.querySelector("main").append(panel);
  tabs.push({id, link, panel, mount, state: null});
  applyWords(document.querySelector("nav"));
}

// Shows the tab that the address names, or the first; called once all tabs are there.
export function startTabs() {
  const nav = document.querySelector("nav");
  nav.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const place = tabs.findIndex((tab) => tab.link === document.activeElement);
    const next = tabs[(place + step + tabs.length) % tabs.length];
    location.hash = next.id;
    next.link.focus();
    event.preventDefault();
  });
  addEventListener("hashchange", show);
  show();
}

function show() {
  const name = location.hash.slice(1).split("/")[0]; // what follows a / is the tab's own
  const chosen = tabs.find((tab) => tab.id === name) ?? tabs[0];
  for (const tab of tabs) {
    const active = tab === chosen;
    tab.link.setAttribute("aria-selected", String(active));
    tab.link.tabIndex = active ? 0 : -1;
    const wasHidden = tab.panel.hidden;
    tab.panel.hidden = !active;
    if (!active && !wasHidden) tab.state?.hidden?.();
    if (active && wasHidden) {
      tab.state ??= tab.mount(tab.panel) ?? {};
      applyWords(tab.panel);
      tab.state.shown?.();
    }
  }
}
