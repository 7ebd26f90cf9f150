// A collection seen four ways: sentences with arcs, a table of facts, a graph, JSON.

import {makeCard} from "./card.js";
import {debounce, download, el, replace} from "./dom.js";
import {toCsv, toLine, toLines, toTabs} from "./files_out.js";
import {makeGraph} from "./graph.js";
import {Pages} from "./pages.js";
import {makeTable} from "./table.js";
import {makeTablist} from "./tablist.js";
import {shortened} from "./text.js";
import {addWords, applyWords, onLanguage, word} from "./words.js";

addWords({
  views: ["看法", "Views"],
  view_sentences: ["句子", "Sentences"],
  view_table: ["表格", "Table"],
  view_graph: ["图", "Graph"],
  view_json: ["JSON", "JSON"],
  table: ["表格", "Table"],
  copy: ["复制", "Copy"],
  copied: ["已复制", "Copied"],
  copy_failed: ["浏览器不让复制", "The browser refused to copy"],
  download_csv: ["下载 CSV", "Download CSV"],
  download_lines: ["下载 JSONL", "Download JSONL"],
  json_cut: ["这里只显示前 {0} 句，下载的 JSONL 是全部。", "Only the first {0} sentences are shown here; the JSONL download has all."],
  col_number: ["句", "No."],
  col_subject: ["主语", "Subject"],
  col_subject_type: ["主语类型", "Subject type"],
  col_predicate: ["关系", "Predicate"],
  col_object: ["宾语", "Object"],
  col_object_type: ["宾语类型", "Object type"],
  col_score: ["置信度", "Score"],
  col_status: ["对错", "Verdict"],
  col_text: ["句子", "Sentence"],
});

const SENTENCES = 20; // a page
const ROWS = 100;
const JSON_SENTENCES = 50;

// Returns {element, goTo(number)}; it follows the collection by itself.
export function makeViews(collection) {
  const colour = (type) => collection.colour(type);
  const sentences = new Pages(SENTENCES, (entry) => makeCard(entry, colour));
  const columns = makeColumns(goTo);
  const table = makeTable(columns, (draw, around) => new Pages(ROWS, draw, around));
  const graph = makeGraph(colour, goTo);
  const json = el("pre", {class: "json", tabindex: "0", role: "region", "aria-label": "JSON"});
  const jsonNote = el("p", {class: "quiet-text", hidden: true});
  const said = el("span", {role: "status", class: "quiet-text"});
  const shownColumns = () => columns.filter((column) => column.word !== "col_status" || collection.hasGold);

  function rows() {
    return collection.visible().flatMap(({item, facts}) => facts.map(({fact, status}) => ({item, fact, status})));
  }

  function cells() {
    const shown = shownColumns();
    return [shown.map((column) => word(column.word)), ...rows().map((row) => shown.map((column) => column.whole?.(row) ?? column.value(row)))];
  }

  async function copy() {
    const text = tabs.current() === "table" ? toTabs(cells()) : toLines(collection.visible());
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = word("copied");
    } catch {
      said.textContent = word("copy_failed");
    }
    setTimeout(() => replace(said), 2500);
  }

  const tools = el("div", {class: "row push"},
    el("button", {type: "button", id: "copy", word: "copy", onclick: copy}),
    el("button", {type: "button", id: "download-csv", word: "download_csv", onclick: () => download("triplets.csv", "text/csv;charset=utf-8", toCsv(cells()))}),
    el("button", {type: "button", id: "download-lines", word: "download_lines", onclick: () =>
      download("results.jsonl", "application/x-ndjson", toLines(collection.visible()))}), said);

  const stale = new Set();
  const draw = {
    sentences: (keep) => sentences.show(collection.visible(), keep),
    table: (keep) => table.show(rows(), keep),
    graph: () => graph.show(collection.visible()),
    json: () => {
      const entries = collection.visible();
      json.textContent = entries.slice(0, JSON_SENTENCES).map(({item, facts}) => JSON.stringify(toLine(item, facts), null, 1)).join("\n");
      jsonNote.textContent = word("json_cut", JSON_SENTENCES);
      jsonNote.hidden = entries.length <= JSON_SENTENCES;
    },
  };
  const tabs = makeTablist([
    {id: "sentences", word: "view_sentences", element: sentences.element},
    {id: "table", word: "view_table", element: table.element},
    {id: "graph", word: "view_graph", element: graph.element},
    {id: "json", word: "view_json", element: el("div", {class: "stack"}, jsonNote, json)},
  ], "views", (id) => {
    if (stale.delete(id)) draw[id](true);
  });
  const element = el("div", {class: "stack"}, el("div", {class: "row"}, tabs.element, tools), tabs.panels);

  // Draws the view that is open; the others when they are opened.
  function update(keep) {
    for (const id of Object.keys(draw)) stale.add(id);
    element.classList.toggle("no-gold", !collection.hasGold);
    stale.delete(tabs.current());
    draw[tabs.current()](keep);
  }

  function goTo(number) {
    let place = collection.visible().findIndex(({item}) => item.number === number);
    if (place < 0) return;
    tabs.show("sentences");
    sentences.goTo(place);
    const card = document.getElementById(`sentence-${number}`);
    card?.scrollIntoView({block: "center"});
    card?.focus({preventScroll: true});
  }

  let filter = "";
  const slow = debounce(250, () => update(true)); // the graph is costly
  collection.listeners.add(() => {
    const now = JSON.stringify([collection.filter, [...collection.filter.predicates]]);
    const same = now === filter; // more has come in: the reader's page stays
    filter = now;
    if (tabs.current() === "graph") slow();
    else update(same);
  });
  onLanguage(() => {
    sentences.forget();
    table.forget();
    update(true);
  });
  applyWords(element);
  update(false);
  return {element, goTo};
}

function makeColumns(goTo) {
  return [
    {word: "col_number", number: true, value: ({item}) => item.number, draw: ({item}) =>
      el("button", {type: "button", class: "button-link", onclick: () => goTo(item.number)}, String(item.number))},
    {word: "col_subject", value: ({fact}) => fact.subject},
    {word: "col_subject_type", value: ({fact}) => fact.subject_type},
    {word: "col_predicate", value: ({fact}) => fact.predicate},
    {word: "col_object", value: ({fact}) => fact.object},
    {word: "col_object_type", value: ({fact}) => fact.object_type},
    {word: "col_score", number: true, value: ({fact}) => fact.score ?? null, draw: ({fact}) =>
      (fact.score === undefined || fact.score === null ? "" : fact.score.toFixed(2))},
    {word: "col_status", value: ({status}) => (status ? word(`status_${status}`) : "")},
    {word: "col_text", value: ({item}) => item.text, draw: ({item}) => el("span", {title: item.text}, shortened(item.text, 32))},
  ];
}
