// Light or dark: as the system says, until the reader says otherwise; and the two switches of every page.

import {el} from "./dom.js";
import {addWords, applyWords, currentLanguage, onLanguage, setLanguage} from "./words.js";

addWords({
  theme: ["明暗", "Light or dark"],
  language: ["English", "中文"],
});

const root = document.documentElement;

function isDark() {
  if (root.dataset.theme) return root.dataset.theme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function keep(theme) {
  root.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {}
}

export function restoreTheme() {
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  } catch {}
}

// Two buttons: the other language, and the other of light and dark.
export function makeSwitches() {
  const languages = el("button", {
    type: "button", class: "quiet", id: "language", word: "language", lang: currentLanguage() === "zh" ? "en" : "zh",
    onclick: () => setLanguage(currentLanguage() === "zh" ? "en" : "zh"),
  });
  onLanguage(() => languages.setAttribute("lang", currentLanguage() === "zh" ? "en" : "zh"));
  const theme = el("button", {
    type: "button", class: "quiet icon", id: "theme", label: "theme",
    onclick: () => {
      keep(isDark() ? "light" : "dark");
    },
  }, "◐");
  const group = el("div", {class: "switches"}, languages, theme);
  applyWords(group);
  return group;
}
