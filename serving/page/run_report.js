// What a run's last evaluation says, and what it takes in memory.

import {getJson} from "./api.js";
import {makeCard} from "./card.js";
import {makeItem} from "./collection.js";
import {debounce, el, replace, svg} from "./dom.js";
import {makePredicateTable, makeReliability, makeReliabilityTable, makeSummary} from "./figures.js";
import {addWords, applyWords, word} from "./words.js";

addWords({
  report_title: ["最后的评估（全部验证集）", "Last evaluation (all of dev)"],
  report_predicates: ["每种关系", "By predicate"],
  report_reliability: ["置信度可不可信", "How far scores can be believed"],
  report_errors: ["错句：漏掉的和多出的", "Wrong sentences: what was missed and what was invented"],
  report_search: ["在错句里查找", "Search the wrong sentences"],
  report_found: ["{0} 句", "{0} sentences"],
  report_more: ["再看 {0} 句", "{0} more"],
  report_none: ["没有错句。", "No sentence is wrong."],
  memory_title: ["显存计划", "Memory plan"],
  memory_peak: ["计划的峰值", "planned peak"],
  memory_budget: ["预算", "budget"],
  memory_measured: ["量到的峰值", "measured peak"],
  memory_part: ["部分", "Part"],
  memory_size: ["大小", "Size"],
});

const PAGE = 20;
export const GB = 2 ** 30;

export function gigabytes(bytes) {
  return `${(bytes / GB).toFixed(2)} GB`;
}

// The element of a run's evaluation; sentences are asked for as they are wanted.
export async function makeReport(name) {
  const path = `/v1/runs/${encodeURIComponent(name)}/report`;
  const report = await getJson(`${path}?count=${PAGE}`);
  const colours = new Map(); // type → class, in the order of appearance
  const colour = (type) => {
    if (!colours.has(type)) colours.set(type, `t${colours.size % 10}`);
    return colours.get(type);
  };
  const list = el("div", {class: "stack"});
  const more = el("button", {type: "button", hidden: true});
  const found = el("span", {class: "quiet-text", role: "status"});
  const search = el("input", {type: "search", class: "search", label: "report_search", id: "error-search"});
  let shown = 0;
  let wanted = "";

  function add({errors, error_count: count}) {
    for (const error of errors) {
      const item = makeItem((shown += 1), {text: error.sentence, triplets: []});
      const facts = ["missing", "spurious"].flatMap((status) => (error[status] ?? []).map((fact) => ({fact, status})));
      list.append(makeCard({item, facts}, colour));
    }
    more.hidden = shown >= count;
    more.textContent = word("report_more", Math.min(PAGE, count - shown));
    found.textContent = count ? word("report_found", count) : word("report_none");
  }

  async function load() {
    const asked = wanted;
    const answer = await getJson(`${path}?start=${shown}&count=${PAGE}&search=${encodeURIComponent(asked)}`);
    if (asked === wanted) add(answer);
  }

  more.addEventListener("click", () => load().catch(() => {}));
  search.addEventListener("input", debounce(200, () => {
    wanted = search.value.trim();
    shown = 0;
    list.replaceChildren();
    load().catch(() => {});
  }));
  add(report);
  const {triplets, reliability} = report;
  const element = el("div", {class: "stack"},
    el("div", {class: "card stack"}, el("h2", {word: "report_title"}), makeSummary(triplets, reliability)),
    el("div", {class: "card stack predicates"}, el("h3", {word: "report_predicates"}), makePredicateTable(triplets.per_predicate, (predicate) => {
      search.value = predicate;
      search.dispatchEvent(new Event("input"));
      search.scrollIntoView({block: "center"});
    })),
    reliability && el("div", {class: "card stack"}, el("h3", {word: "report_reliability"}),
      el("div", {class: "beside"}, makeReliability(reliability), makeReliabilityTable(reliability))),
    el("div", {class: "card stack"}, el("h3", {word: "report_errors"}), el("div", {class: "row"}, search, found)), list,
    el("div", {class: "pager"}, more));
  applyWords(element);
  return element;
}

// The memory plan as a bar of its parts below budget and measured peak, and as a table.
export function makeMemory(plan, measured) {
  const parts = Object.entries(plan.parts ?? {}).filter(([, bytes]) => bytes > 0);
  const peak = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  const most = Math.max(peak, plan.budget ?? 0, measured ?? 0, 1);
  const picture = svg("svg", {
    class: "chart memory", viewBox: "0 0 640 46", role: "img", preserveAspectRatio: "none",
    "aria-label": `${word("memory_peak")} ${gigabytes(peak)}；${word("memory_budget")} ${gigabytes(plan.budget ?? 0)}`,
  });
  let start = 0;
  parts.forEach(([name, bytes], place) => {
    const width = (bytes / most) * 640;
    picture.append(svg("rect", {class: `part t${place % 10}`, x: start, y: 6, width: Math.max(width - 1, 0.5), height: 34},
      svg("title", {}, `${name} ${gigabytes(bytes)}`)));
    start += width;
  });
  for (const [bytes, kind] of [[plan.budget, "limit"], [measured, "measured"]])
    if (bytes) picture.append(svg("line", {class: kind, x1: Math.min((bytes / most) * 640, 638), x2: Math.min((bytes / most) * 640, 638), y1: 0, y2: 46}));
  const rows = parts.map(([name, bytes], place) => el("tr", {},
    el("td", {}, el("i", {class: `dot t${place % 10}`}), " ", name), el("td", {class: "number"}, gigabytes(bytes))));
  const totals = [["memory_peak", peak], ["memory_budget", plan.budget], ["memory_measured", measured]].filter(([, bytes]) => bytes);
  const element = el("div", {class: "card stack", id: "memory-plan"}, el("h3", {word: "memory_title"}), picture,
    el("div", {class: "scroll", tabindex: "0", role: "region", label: "memory_title"}, el("table", {class: "compact"},
      el("thead", {}, el("tr", {}, el("th", {word: "memory_part"}), el("th", {class: "number", word: "memory_size"}))),
      el("tbody", {}, rows, totals.map(([key, bytes]) => el("tr", {class: "total"},
        el("th", {scope: "row", word: key}), el("td", {class: "number"}, gigabytes(bytes))))))));
  applyWords(element);
  return element;
}
