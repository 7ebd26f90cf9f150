// How good a model is, drawn: scores by predicate, how far confidence can be believed, which predicates it mixes up.
// The data are those of an evaluation's report (`per_predicate`, `reliability`), and `confusion` of the report page.

import {el, svg} from "./dom.js";
import {makeTable} from "./table.js";
import {addWords, word} from "./words.js";

addWords({
  figure_f1: ["F1（五个字段全对）", "F1 (all five fields right)"],
  figure_precision: ["精确率", "Precision"],
  figure_recall: ["召回率", "Recall"],
  figure_relaxed: ["F1（主、谓、宾）", "F1 (subject, predicate, object)"],
  figure_exact: ["整句全对", "Sentences all right"],
  figure_sentences: ["句子", "Sentences"],
  figure_error: ["置信度的偏差", "Calibration error"],
  col_expected: ["标准", "Expected"],
  col_predicted: ["预测", "Predicted"],
  col_correct: ["正确", "Correct"],
  col_precision: ["精确率", "Precision"],
  col_recall: ["召回率", "Recall"],
  col_f1: ["F1", "F1"],
  col_relaxed: ["宽松 F1", "Relaxed F1"],
  col_bin: ["置信度", "Score"],
  col_mean: ["平均置信度", "Mean score"],
  col_share: ["正确率", "Share right"],
  col_triplets: ["三元组", "Triplets"],
  col_above: ["不低于它的正确率", "Share right at or above"],
  reliability_axis_x: ["置信度", "score"],
  reliability_axis_y: ["正确的比例", "share right"],
  reliability_label: ["可靠性图：{0} 个三元组，置信度与正确率平均相差 {1}", "Reliability diagram of {0} triplets: score and share right differ by {1} on average"],
  reliability_bin: ["置信度 {0} 到 {1}：{2} 个三元组，{3} 正确", "score {0} to {1}: {2} triplets, {3} right"],
  confusion_gold: ["标准 ↓ 预测 →", "Expected ↓ predicted →"],
  confusion_missed: ["漏掉", "missed"],
  confusion_invented: ["多出", "invented"],
  confusion_none: ["没有把一种关系抽成另一种。", "No predicate was taken for another."],
});

export function makeFigure(value, key) {
  return el("div", {class: "figure"}, el("b", {}, value), el("span", {}, word(key)));
}

export function percent(value) {
  return `${(100 * value).toFixed(1)}%`;
}

// The numbers at the top. `triplets`: of an evaluation's report.
export function makeSummary(triplets, reliability) {
  const {strict, relaxed} = triplets;
  return el("div", {class: "figures"},
    makeFigure(strict.f1.toFixed(3), "figure_f1"),
    makeFigure(strict.precision.toFixed(3), "figure_precision"),
    makeFigure(strict.recall.toFixed(3), "figure_recall"),
    makeFigure(relaxed.f1.toFixed(3), "figure_relaxed"),
    makeFigure(percent(triplets.exact_match), "figure_exact"),
    reliability && makeFigure(reliability.expected_calibration_error.toFixed(3), "figure_error"),
    makeFigure(String(triplets.sentences), "figure_sentences"));
}

// A table of scores by predicate. choose(predicate), if given, is called by a click on its name.
export function makePredicateTable(perPredicate, choose = null) {
  const ratio = (key) => ({word: `col_${key}`, number: true, value: ({strict}) => strict[key], draw: ({strict}) =>
    (key === "f1" ? [strict.f1.toFixed(3), makeMeter(strict.f1)] : strict[key].toFixed(3))});
  const count = (key) => ({word: `col_${key}`, number: true, value: ({strict}) => strict[key]});
  const table = makeTable([
    {word: "col_predicate", value: ({name}) => name, draw: ({name}) => (choose
      ? el("button", {type: "button", class: "button-link", onclick: () => choose(name)}, name) : name)},
    count("expected"), count("predicted"), count("correct"), ratio("precision"), ratio("recall"), ratio("f1"),
    {word: "col_relaxed", number: true, value: ({relaxed}) => relaxed.f1, draw: ({relaxed}) => relaxed.f1.toFixed(3)},
  ]);
  table.show(Object.entries(perPredicate).map(([name, match]) => ({name, ...match})));
  return table.element;
}

function makeMeter(value) {
  const bar = el("i");
  bar.style.width = `${100 * value}%`;
  return el("span", {class: "meter", "aria-hidden": "true"}, bar);
}

// The reliability diagram: for each bin of scores the share of triplets that are right; below, how many there are.
export function makeReliability(reliability) {
  const bins = reliability.bins;
  const [left, top, size, low] = [46, 12, 300, 54]; // the square, and the height of the counts below it
  const bottom = top + size;
  const foot = bottom + 24 + low;
  const total = bins.reduce((sum, bin) => sum + bin.triplets, 0);
  const most = Math.max(...bins.map((bin) => bin.triplets), 1);
  const x = (value) => left + value * size;
  const y = (value) => bottom - value * size;
  const picture = svg("svg", {
    class: "chart", viewBox: `0 0 ${left + size + 14} ${foot + 34}`, width: left + size + 14, height: foot + 34, role: "img",
    "aria-label": word("reliability_label", total, reliability.expected_calibration_error.toFixed(3)),
  });
  for (const value of [0, 0.25, 0.5, 0.75, 1])
    picture.append(svg("line", {class: "grid", x1: left, x2: left + size, y1: y(value), y2: y(value)}),
      svg("text", {x: left - 7, y: y(value) + 4, "text-anchor": "end"}, String(value)),
      svg("text", {x: x(value), y: foot + 14, "text-anchor": "middle"}, String(value)));
  for (const bin of bins) {
    if (!bin.triplets) continue;
    const width = (bin.to - bin.from) * size - 3;
    const about = svg("title", {}, word("reliability_bin", bin.from.toFixed(1), bin.to.toFixed(1), bin.triplets, percent(bin.precision)));
    const height = (bin.triplets / most) * low;
    picture.append(svg("g", {}, about,
      svg("rect", {class: "bar", x: x(bin.from) + 1.5, width, y: y(bin.precision), height: Math.max(1, bin.precision * size)}),
      svg("rect", {class: "bar count", x: x(bin.from) + 1.5, width, y: foot - height, height}),
      svg("text", {x: x((bin.from + bin.to) / 2), y: foot - height - 4, "text-anchor": "middle"}, String(bin.triplets))));
  }
  picture.append(svg("path", {class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}`}),
    svg("path", {class: "axis", d: `M${left} ${top}V${bottom}H${left + size}M${left} ${foot}H${left + size}`}),
    svg("text", {transform: `translate(12 ${top + size / 2}) rotate(-90)`, "text-anchor": "middle"}, word("reliability_axis_y")),
    svg("text", {x: left + size / 2, y: foot + 30, "text-anchor": "middle"}, word("reliability_axis_x")));
  return picture;
}

// The same as a table.
export function makeReliabilityTable(reliability) {
  const fixed = (key) => (bin) => bin[key].toFixed(3);
  const table = makeTable([
    {word: "col_bin", value: (bin) => bin.from, draw: (bin) => `${bin.from.toFixed(1)}–${bin.to.toFixed(1)}`},
    {word: "col_triplets", number: true, value: (bin) => bin.triplets},
    {word: "col_mean", number: true, value: (bin) => bin.mean_score, draw: fixed("mean_score")},
    {word: "col_share", number: true, value: (bin) => bin.precision, draw: fixed("precision")},
    {word: "col_above", number: true, value: (bin) => bin.precision_above, draw: fixed("precision_above")},
  ]);
  table.show(reliability.bins.filter((bin) => bin.triplets));
  return table.element;
}

// Which predicate was written in place of which: {predicates, pairs: [[expected, predicted, count]], correct,
// missed, invented}, all by the place in `predicates`. choose(predicates) is called by a click on a number.
export function makeConfusion(confusion, choose = null) {
  const {predicates, pairs, correct, missed, invented} = confusion;
  if (!pairs.length) return el("p", {class: "quiet-text"}, word("confusion_none"));
  const counts = new Map(pairs.map(([expected, predicted, count]) => [`${expected}/${predicted}`, count]));
  const most = Math.max(...pairs.map((pair) => pair[2]), ...missed, ...invented, 1);
  const cell = (count, names, kind) => {
    const button = count && choose && names ? el("button", {type: "button", class: "button-link", onclick: () => choose(names)}, String(count)) : String(count || "");
    const td = el("td", {class: kind}, button);
    if (count && kind) td.style.setProperty("--part", `${Math.round(12 + (48 * Math.min(count, most)) / most)}%`);
    return td;
  };
  const rows = predicates.map((expected, row) => el("tr", {}, el("th", {scope: "row"}, expected),
    predicates.map((predicted, column) => (row === column
      ? cell(correct[row], null, "right") : cell(counts.get(`${row}/${column}`), [expected, predicted], "wrong"))),
    cell(missed[row], [expected], "wrong")));
  rows.push(el("tr", {}, el("th", {scope: "row"}, word("confusion_invented")),
    predicates.map((predicted, column) => cell(invented[column], [predicted], "wrong")), el("td")));
  const label = word("confusion_gold");
  return el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": label}, el("table", {class: "heat"},
    el("thead", {}, el("tr", {}, el("th", {scope: "col"}, label), [...predicates, word("confusion_missed")].map((name) => el("th", {scope: "col"}, name)))),
    el("tbody", {}, rows)));
}
