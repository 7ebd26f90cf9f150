// Curves of runs over their steps, drawn as SVG; with the pointer or the arrow keys the figures of a step are read.

import {el, replace, svg} from "./dom.js";
import {addWords, word} from "./words.js";

addWords({
  chart_step: ["步 {0}", "step {0}"],
  chart_empty: ["还没有数据", "nothing yet"],
  chart_label: ["{0}：{1}", "{0}: {1}"],
  chart_keys: ["左右键看每一步", "arrow keys read the steps"],
});

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [460, 220, 56, 10, 10, 26];
const MOST = 1500; // points of a curve; of more, every n-th is drawn

// Returns the element of a chart.
//   title: shown above. series: [{name, colour: a class, dashed, points: [[step, value] …]}]. show(value) → text.
export function makeChart(title, series, show) {
  const curves = series.map((each) => ({...each, points: thinned(each.points)})).filter(({points}) => points.length);
  const figure = el("figure", {class: "curve card"}, el("figcaption", {}, title));
  if (!curves.length) {
    figure.append(el("p", {class: "quiet-text"}, word("chart_empty")));
    return figure;
  }
  const steps = curves.flatMap(({points}) => points.map(([step]) => step));
  const values = curves.flatMap(({points}) => points.map(([, value]) => value));
  const across = scale(Math.min(...steps, 0), Math.max(...steps, 1), LEFT, WIDTH - RIGHT);
  const [low, high] = bounds(values);
  const up = scale(low, high, HEIGHT - BOTTOM, TOP);
  const latest = curves.map(({name, points}) => `${name} ${show(points.at(-1)[1])}`).join("；");
  const picture = svg("svg", {
    class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0",
    "aria-label": `${word("chart_label", title, latest)}（${word("chart_keys")}）`,
  });
  for (const value of ticks(low, high))
    picture.append(svg("line", {class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(value), y2: up(value)}),
      svg("text", {x: LEFT - 6, y: up(value) + 4, "text-anchor": "end"}, show(value)));
  for (const value of ticks(Math.min(...steps, 0), Math.max(...steps, 1)))
    picture.append(svg("text", {x: across(value), y: HEIGHT - 8, "text-anchor": "middle"}, String(Math.round(value))));
  picture.append(svg("path", {class: "axis", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}`}));
  for (const {colour, dashed, points} of curves) {
    const path = points.map(([step, value], place) => `${place ? "L" : "M"}${across(step).toFixed(1)} ${up(value).toFixed(1)}`).join("");
    picture.append(svg("path", {class: `line ${colour} ${dashed ? "dashed" : ""}`, d: path}));
    if (points.length < 30)
      for (const [step, value] of points) picture.append(svg("circle", {class: `point ${colour}`, cx: across(step), cy: up(value), r: 2.4}));
  }
  const cursor = svg("line", {class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden"});
  picture.append(cursor);
  const all = [...new Set(steps)].sort((a, b) => a - b);
  const readout = el("p", {class: "readout", role: "status"});
  let place = -1;

  function legend({name, colour, dashed}, [, value]) {
    return el("span", {class: `legend-item ${colour}`}, el("i", {class: `dot ${dashed ? "hollow" : ""}`}), `${name} ${show(value)}`);
  }

  function read(step) {
    place = all.indexOf(step);
    cursor.setAttribute("x1", across(step));
    cursor.setAttribute("x2", across(step));
    cursor.setAttribute("visibility", "visible");
    const found = curves.map((curve) => ({...curve, at: latestAt(curve.points, step)})).filter(({at}) => at);
    replace(readout, el("span", {}, word("chart_step", step)), found.map((curve) => legend(curve, curve.at)));
  }

  function rest() {
    cursor.setAttribute("visibility", "hidden");
    place = -1;
    replace(readout, curves.map((curve) => legend(curve, curve.points.at(-1))));
  }

  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = (event.clientX - box.left) * (WIDTH / box.width);
    read(all.reduce((best, step) => (Math.abs(across(step) - at) < Math.abs(across(best) - at) ? step : best)));
  });
  picture.addEventListener("pointerleave", rest);
  picture.addEventListener("blur", rest);
  picture.addEventListener("keydown", (event) => {
    const move = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!move) return;
    const from = place < 0 ? (move > 0 ? -1 : all.length) : place;
    read(all[Math.min(Math.max(from + move, 0), all.length - 1)]);
    event.preventDefault();
  });
  rest();
  figure.append(picture, readout);
  return figure;
}

function latestAt(points, step) {
  let found = null;
  for (const point of points) {
    if (point[0] > step) break;
    found = point;
  }
  return found;
}

function thinned(points) {
  const every = Math.ceil(points.length / MOST);
  return every < 2 ? points : points.filter((_, place) => place % every === 0 || place === points.length - 1);
}

function scale(from, to, start, end) {
  const width = to - from || 1;
  return (value) => start + ((value - from) / width) * (end - start);
}

// Where the axis begins and ends: at 0, unless there is something below it, and at a line above all.
function bounds(values) {
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  if (low === high) return [0, 1];
  const step = tickStep(low, high);
  return [low, Math.ceil(high / step - 1e-9) * step];
}

function tickStep(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  return power * [1, 2, 5, 10].find((each) => each * power >= rough);
}

export function ticks(low, high) {
  const step = tickStep(low, high);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) values.push(Number(value.toPrecision(12)));
  return values;
}
