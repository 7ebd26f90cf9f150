// A sentence on the page: its number, the text with arcs, its facts as buttons, what went wrong.

import {el} from "./dom.js";
import {highlight, makeSentence} from "./sentence.js";
import {addWords, word} from "./words.js";

addWords({
  sentence_number: ["第 {0} 句", "Sentence {0}"],
  no_facts: ["没有三元组", "no triplets"],
  truncated: ["回答到长度上限还没有结束，后面的三元组可能缺失", "the answer reached its length limit; triplets may be missing at its end"],
  source_truncated: ["句子太长，末尾没有参与抽取", "the sentence is too long; its end was left out"],
  repaired: ["回答不是完整的 JSON，已修复", "the answer was no whole JSON and was repaired"],
  raw: ["模型的回答", "The model's answer"],
  status_correct: ["对", "right"],
  status_spurious: ["多出", "invented"],
  status_missing: ["漏掉", "missed"],
  at_seconds: ["{0} 秒", "{0} s"],
});

const MARKS = {correct: "✓", spurious: "✗", missing: "−"};

// The element of {item, facts}, see Collection; `colour` gives a type its class.
export function makeCard({item, facts}, colour) {
  const card = el("article", {class: "card", id: `sentence-${item.number}`, tabindex: "-1"});
  const buttons = facts.map((entry, place) => makeFact(entry, place));
  const select = (places) => {
    highlight(text, places);
    buttons.forEach((button, place) => button.classList.toggle("on", places.includes(place)));
  };
  const text = makeSentence(item, facts, colour, select);
  const list = el("ul", {class: "facts"}, buttons.map((button, place) => {
    button.addEventListener("mouseenter", () => select([place]));
    button.addEventListener("mouseleave", () => select([]));
    button.addEventListener("focus", () => select([place]));
    button.addEventListener("blur", () => select([]));
    return el("li", {}, button);
  }));
  card.append(makeHead(item, facts), text, list);
  for (const flag of ["truncated", "source_truncated", "repaired"])
    if (item[flag]) card.append(el("p", {class: "note warn"}, word(flag)));
  if (item.error) {
    card.append(el("p", {class: "note bad"}, String(item.error)));
    if (item.raw) card.append(el("details", {}, el("summary", {}, word("raw")), el("pre", {class: "json", tabindex: "0"}, String(item.raw))));
  }
  return card;
}

function makeHead(item, facts) {
  const head = el("div", {class: "sentence-head"}, el("span", {class: "number"}, word("sentence_number", item.number)));
  if (item.id !== undefined && item.id !== null) head.append(el("span", {}, String(item.id)));
  if (item.seconds !== undefined) head.append(el("span", {class: "number seconds"}, word("at_seconds", item.seconds.toFixed(2))));
  if (!facts.length && !item.error) head.append(el("span", {}, word("no_facts")));
  return head;
}

function makeFact({fact, status}, place) {
  const score = fact.score === undefined || fact.score === null ? null : fact.score.toFixed(2);
  return el("button", {
    type: "button", class: `fact ${status ?? ""}`, "data-place": String(place), title: `${fact.subject_type} → ${fact.object_type}`,
  },
  status && el("span", {class: "mark"}, `${MARKS[status]} ${word(`status_${status}`)}`),
  el("span", {}, fact.subject), el("span", {class: "relation"}, `— ${fact.predicate} →`), el("span", {}, fact.object),
  score && el("span", {class: "score"}, score));
}
