// What is shown of a collection: a search, kinds of sentences, predicates, a slider for the score, counts.

import {el, replace} from "./dom.js";
import {addWords, applyWords, onLanguage, word} from "./words.js";

addWords({
  search: ["搜索句子与三元组（按 / 键）", "Search sentences and triplets (key /)"],
  kind: ["哪些句子", "Which sentences"],
  kind_all: ["全部句子", "All sentences"],
  kind_with: ["有三元组的", "With triplets"],
  kind_without: ["没有三元组的", "Without triplets"],
  kind_failed: ["没有结果的", "Without a result"],
  kind_wrong: ["有错的", "With mistakes"],
  kind_right: ["全对的", "All right"],
  min_score: ["置信度不低于", "Score at least"],
  predicates: ["关系", "Predicates"],
  types: ["类型", "Types"],
  all_predicates: ["全部", "All"],
  more: ["其余 {0} 种", "{0} more"],
  fewer: ["收起", "Fewer"],
  count_sentences: ["{0} 句", "{0} sentences"],
  count_of: ["{0} / {1} 句", "{0} of {1} sentences"],
  count_facts: ["{0} 个三元组", "{0} triplets"],
  count_failed: ["{0} 句没有结果", "{0} without a result"],
  prf: ["精确率 {0}，召回率 {1}，F1 {2}", "precision {0}, recall {1}, F1 {2}"],
});

const FIRST = 10; // predicates shown before "more"

// Returns the element; it follows the collection by itself.
export function makeToolbar(collection) {
  const search = el("input", {type: "search", class: "search", label: "search", oninput: () =>
    collection.setFilter({query: search.value})});
  const kind = el("select", {id: "kind", label: "kind", onchange: () => collection.setFilter({kind: kind.value})});
  const slider = el("input", {type: "range", id: "min-score", min: 0, max: 1, step: 0.01, value: "0"});
  const shown = el("output", {for: "min-score", class: "number"}, "0.00");
  slider.addEventListener("input", () => {
    shown.value = Number(slider.value).toFixed(2);
    collection.setFilter({minScore: Number(slider.value)});
  });
  const score = el("div", {class: "row score-row"}, el("label", {for: "min-score", word: "min_score"}), slider, shown);
  const predicates = el("div", {class: "row chips", role: "group", label: "predicates"});
  const types = el("div", {class: "row chips legend"});
  const counts = el("div", {class: "row counts number", role: "status"});
  const element = el("div", {class: "stack toolbar"},
    el("div", {class: "row"}, search, kind, score), predicates, types, counts);
  let whole = false; // all predicates are shown

  function drawKinds() {
    const names = ["all", "with", "without", "failed", ...(collection.hasGold ? ["wrong", "right"] : [])];
    replace(kind, names.map((name) => el("option", {value: name, selected: name === collection.filter.kind}, word(`kind_${name}`))));
    kind.value = collection.filter.kind;
  }

  function toggle(name) {
    const chosen = new Set(collection.filter.predicates);
    if (!chosen.delete(name)) chosen.add(name);
    collection.setFilter({predicates: chosen});
  }

  function drawPredicates() {
    const names = [...collection.predicates].sort((a, b) => b[1] - a[1]);
    const chosen = collection.filter.predicates;
    const focused = predicates.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const listed = whole ? names : names.filter(([name], place) => place < FIRST || chosen.has(name));
    const rest = names.length - listed.length;
    const chip = (name, text, pressed, action, count) => el("button", {
      type: "button", class: "chip", "data-name": name, "aria-pressed": pressed === null ? null : String(pressed), onclick: action,
    }, text, count !== undefined && el("span", {class: "count"}, String(count)));
    replace(predicates,
      names.length ? chip("*", word("all_predicates"), !chosen.size, () => collection.setFilter({predicates: new Set()})) : null,
      listed.map(([name, count]) => chip(`p:${name}`, name, chosen.has(name), () => toggle(name), count)),
      names.length > FIRST ? chip("more", whole ? word("fewer") : word("more", rest), null, () => {
        whole = !whole;
        drawPredicates();
      }) : null);
    if (focused) [...predicates.children].find((each) => each.dataset.name === focused)?.focus();
  }

  function drawTypes() {
    replace(types, [...collection.types.keys()].slice(0, 24).map((type) =>
      el("span", {class: `legend-item ${collection.colour(type)}`}, el("i", {class: "dot"}), type)));
  }

  function drawCounts() {
    const totals = collection.totals();
    const visible = collection.visible().length;
    const parts = [
      visible === totals.sentences ? word("count_sentences", totals.sentences) : word("count_of", visible, totals.sentences),
      word("count_facts", totals.facts),
    ];
    if (totals.failed) parts.push(word("count_failed", totals.failed));
    if (collection.hasGold) {
      const {correct, spurious, missing} = totals;
      const ratio = (part, rest) => (part + rest ? (part / (part + rest)).toFixed(3) : "–");
      const f1 = correct ? ((2 * correct) / (2 * correct + spurious + missing)).toFixed(3) : "–";
      parts.push(word("prf", ratio(correct, spurious), ratio(correct, missing), f1));
    }
    replace(counts, parts.map((part) => el("span", {}, part)));
  }

  function draw() {
    score.hidden = !collection.hasScores;
    if (search.value !== collection.filter.query) search.value = collection.filter.query;
    slider.value = String(collection.filter.minScore);
    shown.value = collection.filter.minScore.toFixed(2);
    drawKinds();
    drawPredicates();
    drawTypes();
    drawCounts();
  }

  collection.listeners.add(draw);
  onLanguage(draw);
  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || !element.offsetParent) return;
    event.preventDefault();
    search.focus();
  });
  applyWords(element);
  draw();
  return element;
}
