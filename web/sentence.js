// A sentence with its mentions coloured and an arc from subject to object for each fact.
//
// The text is real text. It is laid out twice: first as it wraps by itself, to learn where its lines end; then
// line by line, each with as much room above as its arcs need. An arc between two lines becomes a labelled stub
// on both. `relayout` starts anew when the width changes.

import {el, svg} from "./dom.js";
import {endsOf} from "./collection.js";

const LEVEL = 21; // pixels between two arcs above one another
const FIRST = 19; // from the text to the first one
const CORNER = 6;
const GAP = 8; // between two arcs beside one another

const observer = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    const width = Math.round(target.clientWidth);
    if (width && width !== target.laidOutWidth) relayout(target);
  }
});

// Returns the element of a sentence, which is laid out as soon as it has a width.
//   item: of a Collection; facts: [{fact, status}]; colour: type → class; select(places): facts under the pointer.
export function makeSentence(item, facts, colour, select = () => {}) {
  const root = el("div", {class: "sentence"});
  const ends = facts.map(({fact}) => endsOf(item, fact));
  const mentions = new Map(); // "start-end" → {start, end, type, facts}
  const mentionOf = (span, type, place) => {
    if (!span) return null;
    const key = span.join("-");
    if (!mentions.has(key)) mentions.set(key, {start: span[0], end: span[1], type, facts: new Set()});
    mentions.get(key).facts.add(place);
    return mentions.get(key);
  };
  const arcs = facts.map(({fact, status}, place) => ({
    place, fact, status,
    from: mentionOf(ends[place].subject, fact.subject_type, place),
    to: mentionOf(ends[place].object, fact.object_type, place),
  }));
  root.model = {text: item.text, arcs, mentions: [...mentions.values()], colour, select};
  root.append(...segments(root.model, 0, item.text.length));
  observer.observe(root);
  return root;
}

// Lights some facts and dims the others; none: all are as usual.
export function highlight(root, places) {
  root.classList.toggle("lit", places.length > 0);
  for (const element of root.querySelectorAll("[data-facts]"))
    element.classList.toggle("on", element.dataset.facts.split(" ").some((place) => places.includes(Number(place))));
}

// The text from start to end as elements, cut where mentions begin and end.
function segments(model, start, end) {
  const cuts = new Set([start, end]);
  for (const mention of model.mentions)
    for (const cut of [mention.start, mention.end]) if (cut > start && cut < end) cuts.add(cut);
  const places = [...cuts].sort((a, b) => a - b);
  return places.slice(1).map((to, index) => {
    const from = places[index];
    const text = model.text.slice(from, to);
    const around = model.mentions
      .filter((mention) => mention.start <= from && mention.end >= to)
      .sort((a, b) => a.end - a.start - (b.end - b.start));
    if (!around.length) return el("span", {}, text);
    const [inner, outer] = around;
    const begins = around.some((mention) => mention.start === from) ? " begins" : "";
    const span = el("span", {
      class: `mention ${model.colour(inner.type)}${outer ? " nested" : ""}${begins}`,
      title: around.map((mention) => mention.type).join(" / "),
      "data-facts": [...new Set(around.flatMap((mention) => [...mention.facts]))].join(" "),
      onmouseenter: () => model.select([...inner.facts]),
      onmouseleave: () => model.select([]),
    }, text);
    if (outer) span.style.setProperty("--outer", `var(--${model.colour(outer.type)})`);
    span.around = around;
    return span;
  });
}

export function relayout(root) {
  const model = root.model;
  root.laidOutWidth = Math.round(root.clientWidth);
  root.replaceChildren(...segments(model, 0, model.text.length));
  if (!model.arcs.some((arc) => arc.from && arc.to)) return;
  const starts = lineStarts(root);
  const lines = starts.map((start, index) => {
    const strut = el("i", {class: "strut"});
    const line = el("span", {class: "line"}, strut, segments(model, start, starts[index + 1] ?? model.text.length));
    return {line, strut, intervals: []};
  });
  root.replaceChildren(...lines.flatMap(({line}) => [line, document.createElement("wbr")]));
  const pieces = measure(root, lines);
  place(model.arcs, pieces, lines, root.clientWidth);
  const size = parseFloat(getComputedStyle(root).fontSize);
  for (const {strut, levels} of lines)
    if (levels) strut.style.height = `${size + FIRST + levels * LEVEL}px`;
  root.append(draw(root, lines, measure(root, lines)));
}

// Where each line of a laid out text begins, in UTF-16 units.
function lineStarts(root) {
  const starts = [0];
  const range = document.createRange();
  let offset = 0;
  let top = null;
  for (const segment of root.children) {
    const node = segment.firstChild;
    const length = node.data.length;
    const topAt = (index) => {
      range.setStart(node, index);
      range.setEnd(node, index + (node.data.codePointAt(index) > 0xffff ? 2 : 1));
      const box = [...range.getClientRects()].find((rect) => rect.width > 0);
      return box ? box.top : null;
    };
    const isHalf = (index) => index > 0 && (node.data.charCodeAt(index) & 0xfc00) === 0xdc00;
    let index = 0;
    while (index < length) {
      const here = topAt(index);
      if (here === null) { // a new line, or something without a width
        if (node.data[index] === "\n" && offset + index + 1 < root.model.text.length) {
          starts.push(offset + index + 1);
          top = null;
        }
        index += 1;
        continue;
      }
      if (top === null) top = here;
      else if (Math.abs(here - top) > 4) {
        if (starts[starts.length - 1] !== offset + index) starts.push(offset + index);
        top = here;
      }
      // The last character of this segment on this line: by halves, up to the next new line.
      const newline = node.data.indexOf("\n", index);
      let low = index;
      let high = (newline < 0 ? length : newline) - 1;
      while (low < high) {
        let middle = Math.ceil((low + high) / 2);
        if (isHalf(middle)) middle -= 1;
        if (middle <= low) middle = Math.min(low + 2, high);
        if (isHalf(middle)) break;
        const there = topAt(middle);
        if (there === null || Math.abs(there - top) <= 4) low = middle;
        else high = middle - 1;
      }
      index = low + (node.data.codePointAt(low) > 0xffff && !isHalf(low) ? 2 : 1);
    }
    offset += length;
  }
  return starts;
}

// For each mention its pieces by line: Map(mention → [{line, left, right, top}]).
function measure(root, lines) {
  const origin = root.getBoundingClientRect();
  const pieces = new Map();
  lines.forEach(({line}, number) => {
    for (const element of line.querySelectorAll(".mention")) {
      const box = element.getBoundingClientRect();
      const left = box.left - origin.left;
      for (const mention of element.around) {
        if (!pieces.has(mention)) pieces.set(mention, []);
        const own = pieces.get(mention);
        const last = own[own.length - 1];
        if (last?.line === number) last.right = Math.max(last.right, left + box.width);
        else own.push({line: number, left, right: left + box.width, top: box.top - origin.top});
      }
    }
  });
  return pieces;
}

let pen = null;

function labelWidth(text) {
  if (!pen) {
    pen = document.createElement("canvas").getContext("2d");
    pen.font = `12px ${getComputedStyle(document.documentElement).getPropertyValue("--ui-font")}`;
  }
  return pen.measureText(text).width + 6;
}

// Gives each arc its parts on lines, {line, left, right, level, …}, and each line its number of levels.
function place(arcs, pieces, lines, width) {
  const widest = (mention) => pieces.get(mention)?.reduce((a, b) => (b.right - b.left > a.right - a.left ? b : a));
  const middle = (piece) => (piece.left + piece.right) / 2;
  for (const arc of arcs) {
    arc.parts = [];
    const from = arc.from && widest(arc.from);
    const to = arc.to && widest(arc.to);
    if (!from || !to) continue;
    const label = labelWidth(arc.fact.predicate);
    if (from.line === to.line) {
      const left = Math.min(middle(from), middle(to));
      const right = Math.max(middle(from), middle(to));
      const spare = Math.max(0, (label - (right - left)) / 2);
      arc.parts.push({line: from.line, left: left - spare, right: right + spare, from: arc.from, to: arc.to});
    } else {
      const down = from.line < to.line; // reading on from the subject leads to the object
      const [first, second] = down ? [from, to] : [to, from];
      arc.parts.push({
        line: first.line, left: Math.min(middle(first), width - label - 4), right: width,
        [down ? "from" : "to"]: down ? arc.from : arc.to, edge: width,
      });
      arc.parts.push({
        line: second.line, left: 0, right: Math.max(middle(second), label + 4),
        [down ? "to" : "from"]: down ? arc.to : arc.from, edge: 0,
      });
    }
    for (const part of arc.parts) lines[part.line].intervals.push(part);
  }
  for (const line of lines) {
    const levels = []; // for each level the intervals on it
    for (const part of line.intervals.sort((a, b) => a.right - a.left - (b.right - b.left))) {
      const free = (level) => level.every((other) => part.right + GAP < other.left || other.right + GAP < part.left);
      // Above all that it spans, so that its ends cross nothing.
      let lowest = 0;
      levels.forEach((level, index) => {
        if (!free(level)) lowest = index + 1;
      });
      part.level = lowest;
      (levels[lowest] ??= []).push(part);
    }
    line.levels = levels.length;
  }
}

function draw(root, lines, pieces) {
  const picture = svg("svg", {width: root.clientWidth, height: root.clientHeight, "aria-hidden": "true"});
  const model = root.model;
  const ends = attach(model.arcs, pieces);
  for (const arc of model.arcs) {
    if (!arc.parts.length) continue;
    const {fact} = arc;
    const score = fact.score === undefined || fact.score === null ? "" : `  ${fact.score.toFixed(2)}`;
    const group = svg("g", {
      class: `arc ${arc.status ?? ""}`, "data-facts": String(arc.place),
      onmouseenter: () => model.select([arc.place]), onmouseleave: () => model.select([]),
    }, svg("title", {}, `${fact.subject} —${fact.predicate}→ ${fact.object}${score}`));
    for (const part of arc.parts) group.append(...drawPart(part, ends, fact.predicate));
    picture.append(group);
  }
  return picture;
}

function drawPart(part, ends, label) {
  const start = part.from && ends.get(part).from;
  const end = part.to && ends.get(part).to;
  const base = (start ?? end).y;
  const y = base - FIRST - part.level * LEVEL + 4;
  const x1 = start?.x ?? part.edge;
  const x2 = end?.x ?? part.edge;
  const turn = Math.min(CORNER, Math.abs(x2 - x1) / 2) * Math.sign(x2 - x1 || 1);
  const path = [
    start ? `M${x1} ${base}V${y + CORNER}Q${x1} ${y} ${x1 + turn} ${y}` : `M${x1} ${y}`,
    end ? `H${x2 - turn}Q${x2} ${y} ${x2} ${y + CORNER}V${base - 5}` : `H${x2}`,
  ].join("");
  const half = labelWidth(label) / 2;
  const middle = part.edge === undefined
    ? (x1 + x2) / 2
    : Math.min(Math.max((x1 + x2) / 2, part.edge ? part.left + half : half), part.edge ? part.edge - half : part.right + half);
  const drawn = [svg("path", {class: "hit", d: path}), svg("path", {d: path})];
  if (end) drawn.push(svg("path", {class: "head", d: `M${x2 - 4} ${base - 6.5}h8l-4 6.5z`}));
  return [...drawn, svg("text", {x: middle, y}, label)];
}

// Spreads the ends of arcs over their mention, in an order in which they don't cross each other.
function attach(arcs, pieces) {
  const ends = new Map(); // part → {from: {x, y}, to: {x, y}}
  const byPiece = new Map();
  const pieceOn = (mention, line) => pieces.get(mention)
    .filter((piece) => piece.line === line)
    .reduce((a, b) => (b.right - b.left > a.right - a.left ? b : a));
  for (const arc of arcs)
    for (const part of arc.parts) {
      ends.set(part, {});
      const places = {};
      for (const side of ["from", "to"]) if (part[side]) places[side] = pieceOn(part[side], part.line);
      for (const [side, piece] of Object.entries(places)) {
        const other = places[side === "from" ? "to" : "from"];
        const goal = other ? (other.left + other.right) / 2 : part.edge;
        const leftward = goal < (piece.left + piece.right) / 2;
        if (!byPiece.has(piece)) byPiece.set(piece, []);
        byPiece.get(piece).push({part, side, order: leftward ? part.level : 1000 - part.level});
      }
    }
  for (const [piece, list] of byPiece) {
    list.sort((a, b) => a.order - b.order);
    const step = Math.min(14, (piece.right - piece.left) / (list.length + 1));
    const first = (piece.left + piece.right) / 2 - (step * (list.length - 1)) / 2;
    list.forEach(({part, side}, index) => {
      ends.get(part)[side] = {x: Math.round((first + step * index) * 2) / 2, y: piece.top};
    });
  }
  return ends;
}
