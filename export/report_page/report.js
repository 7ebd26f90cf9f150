// The report: its figures, and all its sentences.

import {Collection} from "./collection.js";
import {el, replace} from "./dom.js";
import {makeConfusion, makePredicateTable, makeReliability, makeReliabilityTable, makeSummary} from "./figures.js";
import {makeTablist} from "./tablist.js";
import {makeSwitches, restoreTheme} from "./theme.js";
import {makeToolbar} from "./toolbar.js";
import {makeViews} from "./views.js";
import {addWords, applyWords, onLanguage, word} from "./words.js";

addWords({
  report: ["抽取报告", "Extraction report"],
  skip: ["跳到内容", "Skip to content"],
  made_from: ["来自 {0}，{1}", "from {0}, {1}"],
  reading_data: ["正在读取数据……", "Reading the data …"],
  part: ["报告的各部分", "Parts of the report"],
  part_scores: ["得分", "Scores"],
  part_sentences: ["逐句", "Sentence by sentence"],
  head_summary: ["总计", "Overall"],
  head_predicates: ["逐关系", "By predicate"],
  head_reliability: ["置信度可信吗", "Can scores be believed?"],
  head_confusion: ["把哪种关系抽成了哪种", "Which predicate is taken for which"],
  confusion_help: ["只列错得最多的几种关系；同一对主语、宾语换了关系的算混淆，点数字看句子。", "Predicates with the most mistakes. Subject and object right, predicate another: taken for it. A click on a number shows the sentences."],
  reliability_help: ["柱子在斜线上就是说到做到；在斜线下是过于自信。", "Bars that end on the diagonal keep their promise; below it the model is too sure of itself."],
  reliability_level: ["置信度低于 {0} 的多半是错的：--min_score {0} 可以略去它们。", "Below {0} triplets are rather wrong than right: --min_score {0} leaves them out."],
  as_table: ["数字", "Numbers"],
});

restoreTheme();
document.querySelector("header").append(makeSwitches());
applyWords(document);
// First the page is painted, then the data are read.
requestAnimationFrame(() => setTimeout(start, 0));

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.querySelector("main");
  const about = document.getElementById("about");
  const say = () => {
    about.textContent = word("made_from", data.source, data.made);
  };
  say();
  onLanguage(say);
  const collection = new Collection();
  collection.add(data.sentences.map((sentence, place) => unpack(data, sentence, place + 1)));
  const sentences = el("div", {class: "stack"});
  if (!data.scores) {
    replace(main, sentences);
    fill(sentences, collection);
  } else {
    const scores = el("div", {class: "stack"});
    const parts = makeTablist([
      {id: "scores", word: "part_scores", element: scores}, {id: "all", word: "part_sentences", element: sentences},
    ], "part", (id) => {
      if (id === "all" && !sentences.children.length) fill(sentences, collection);
    });
    const choose = (names) => {
      collection.setFilter({predicates: new Set(names), kind: "wrong", query: ""});
      parts.show("all");
    };
    const draw = () => replace(scores, drawScores(data, choose));
    draw();
    onLanguage(draw);
    replace(main, el("div", {class: "stack"}, el("div", {}, parts.element), parts.panels));
    applyWords(main);
  }
  performance.mark("report-ready");
}

function fill(place, collection) {
  const views = makeViews(collection);
  replace(place, el("div", {class: "card"}, makeToolbar(collection)), views.element);
}

// A sentence of the data: [text, facts, gold, rest]; a fact is [predicate, subject_type, object_type (places in
// `names`), subject, object, score, subject_span, object_span, match], cut off after its last value.
function unpack({names}, [text, facts, gold, rest], number) {
  const fact = ([predicate, subjectType, objectType, subject, object, score, subjectSpan, objectSpan, match]) => ({
    predicate: names[predicate], object_type: names[objectType], subject_type: names[subjectType], object, subject,
    ...(typeof score === "number" ? {score} : {}),
    ...(objectSpan ? {object_span: objectSpan} : {}), ...(subjectSpan ? {subject_span: subjectSpan} : {}),
    ...(gold ? {match: match ?? null} : {}),
  });
  const item = {number, text, facts: facts.map(fact), ...rest};
  if (gold) item.gold = gold.map((each) => fact(each));
  for (const each of item.gold ?? []) delete each.match;
  return item;
}

function drawScores({scores}, choose) {
  const {triplets, reliability, confusion} = scores;
  const level = reliability?.half_right_score;
  return [
    el("div", {class: "card stack"}, el("h2", {}, word("head_summary")), makeSummary(triplets, reliability)),
    reliability && el("div", {class: "card stack"}, el("h2", {}, word("head_reliability")),
      el("p", {class: "quiet-text"}, word("reliability_help")),
      el("div", {class: "beside"}, makeReliability(reliability), el("div", {class: "stack"},
        typeof level === "number" && level > 0 ? el("p", {class: "note"}, word("reliability_level", level)) : null, makeReliabilityTable(reliability)))),
    el("div", {class: "card stack"}, el("h2", {}, word("head_confusion")), el("p", {class: "quiet-text"}, word("confusion_help")),
      makeConfusion(confusion, choose)),
    el("div", {class: "card stack"}, el("h2", {}, word("head_predicates")), makePredicateTable(triplets.per_predicate, (name) => choose([name]))),
  ];
}
