// What the pages say, in Chinese and English. `addWords({key: ["中文", "English"]})`, then `word(key, value …)`
// with {0}, {1} … replaced; elements with data-word or data-label follow the language by themselves.

const table = new Map();
const listeners = new Set();
let language = pick();

function pick() {
  let kept = null;
  try {
    kept = localStorage.getItem("language");
  } catch {} // a file opened from disk may have no storage
  if (kept === "zh" || kept === "en") return kept;
  return (navigator.language || "zh").toLowerCase().startsWith("zh") ? "zh" : "en";
}

export function addWords(words) {
  for (const [key, both] of Object.entries(words)) table.set(key, both);
}

export function word(key, ...values) {
  const both = table.get(key);
  const text = both ? both[language === "zh" ? 0 : 1] : key;
  return text.replace(/\{(\d)\}/g, (_, place) => String(values[Number(place)] ?? ""));
}

export function currentLanguage() {
  return language;
}

export function setLanguage(name) {
  language = name;
  try {
    localStorage.setItem("language", name);
  } catch {}
  applyWords(document);
  for (const listener of listeners) listener(language);
}

// Called after each change of language, for what is drawn from data.
export function onLanguage(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// Sets the words of an element and all below it.
export function applyWords(root) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of root.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  for (const element of root.querySelectorAll("[data-label]")) {
    const text = word(element.dataset.label);
    element.setAttribute("aria-label", text);
    element.title = text;
    if ("placeholder" in element && element.dataset.placeholder === undefined) element.placeholder = text;
  }
  for (const element of root.querySelectorAll("[data-placeholder]"))
    element.placeholder = word(element.dataset.placeholder);
}
