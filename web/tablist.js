// Views of the same thing, one at a time: a row of tabs and their panels.

import {el} from "./dom.js";
import {applyWords} from "./words.js";

// Returns {element (the tabs), panels, show(id), current()}. views: [{id, word, element}]; onShow(id).
export function makeTablist(views, label, onShow) {
  let current = views[0].id;
  const buttons = views.map((view) => el("button", {
    type: "button", role: "tab", id: `view-${view.id}`, "aria-controls": `panel-${view.id}`, word: view.word,
    onclick: () => show(view.id),
  }));
  const panels = views.map((view) => el("div", {
    role: "tabpanel", id: `panel-${view.id}`, "aria-labelledby": `view-${view.id}`, hidden: view.id !== current,
  }, view.element));
  const element = el("div", {class: "segments", role: "tablist", label}, buttons);
  element.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const next = (buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length;
    show(views[next].id);
    buttons[next].focus();
    event.preventDefault();
  });

  function mark() {
    views.forEach((view, place) => {
      const active = view.id === current;
      buttons[place].setAttribute("aria-selected", String(active));
      buttons[place].tabIndex = active ? 0 : -1;
      panels[place].hidden = !active;
    });
  }

  function show(id) {
    current = id;
    mark();
    onShow(id);
  }

  mark();
  applyWords(element.parentNode ?? element);
  return {element, panels: el("div", {class: "views"}, panels), show, current: () => current};
}
