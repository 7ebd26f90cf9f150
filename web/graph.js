// The facts on show as a graph: entities that can be dragged, edges that lead back to their sentences.
//
// Positions come from springs along edges and repulsion between all pairs (Fruchterman and Reingold 1991), worked
// out before anything is drawn: nothing moves unless the reader moves it.

import {el, replace, svg} from "./dom.js";
import {shortened} from "./text.js";
import {addWords, word} from "./words.js";

addWords({
  graph: ["知识图谱", "Knowledge graph"],
  graph_empty: ["没有三元组可画。", "There are no triplets to draw."],
  graph_cut: ["只画了联系最多的 {0} 个实体，共 {1} 个。用上面的筛选缩小范围。", "Only the {0} best connected entities of {1} are drawn. Filters make it less."],
  graph_help: ["点实体或连线看它的句子；拖动实体，滚轮缩放，拖动空白处平移。", "Click an entity or an edge for its sentences; drag entities, scroll to zoom, drag the background to pan."],
  zoom_in: ["放大", "Zoom in"],
  zoom_out: ["缩小", "Zoom out"],
  zoom_fit: ["全部", "Fit"],
  node_label: ["{0}（{1}），{2} 条联系", "{0} ({1}), {2} links"],
  show_sentence: ["看第 {0} 句", "Go to sentence {0}"],
  more_sentences: ["还有 {0} 句", "{0} more"],
});

const MOST = 80; // entities drawn at a time
const PARTNERS = 8; // of each, when not all can be drawn
const LISTED = 20; // sentences of a selection
const IDEAL = 88; // length of an edge
const [MARGIN_X, MARGIN_Y] = [62, 34]; // around a part: names are wider than nodes
const ASPECT = 1.55; // of the whole

// Returns {nodes, edges, total}: the best connected entities, and the facts between them by pair.
export function collect(entries, most = MOST) {
  const all = new Map();
  const pairs = new Map();
  const node = (name, type) => {
    const key = `${type}\n${name}`;
    if (!all.has(key)) all.set(key, {key, name, type, degree: 0, facts: []});
    return all.get(key);
  };
  for (const {item, facts} of entries)
    for (const {fact, status} of facts) {
      if (status === "missing") continue;
      const [from, to] = [node(fact.subject, fact.subject_type), node(fact.object, fact.object_type)];
      const key = `${from.key}\n\n${to.key}`;
      if (!pairs.has(key)) pairs.set(key, {key, from, to, predicates: new Set(), facts: []});
      const edge = pairs.get(key);
      edge.predicates.add(fact.predicate);
      for (const each of [edge, from, to]) each.facts.push({item, fact});
      from.degree += 1;
      to.degree += 1;
    }
  const kept = pick([...all.values()], [...pairs.values()], most);
  const edges = [...pairs.values()].filter(({from, to}) => kept.has(from) && kept.has(to));
  const linked = new Set(edges.flatMap(({from, to}) => [from, to])); // the last one may have come too late
  return {nodes: [...kept].filter((node) => linked.has(node)), edges, total: all.size};
}

// Of too many entities, those with the most links, each with some of its partners: alone they would say nothing.
function pick(nodes, edges, most) {
  if (nodes.length <= most) return new Set(nodes);
  const partners = new Map(nodes.map((node) => [node, new Set()]));
  for (const {from, to} of edges) {
    partners.get(from).add(to);
    partners.get(to).add(from);
  }
  const byDegree = (a, b) => b.degree - a.degree;
  const kept = new Set();
  for (const node of nodes.sort(byDegree))
    for (const each of [node, ...[...partners.get(node)].sort(byDegree).slice(0, PARTNERS)])
      if (kept.size < most) kept.add(each);
  return kept;
}

// Gives every node x and y: each connected part for itself, then all parts side by side, the largest first.
export function arrange({nodes, edges}) {
  const boxes = split(nodes, edges).map((part) => {
    settle(part);
    const [left, top] = [Math.min(...part.nodes.map((node) => node.x)) - MARGIN_X, Math.min(...part.nodes.map((node) => node.y)) - MARGIN_Y];
    for (const node of part.nodes) {
      node.x -= left;
      node.y -= top;
    }
    return {
      part, width: Math.max(...part.nodes.map((node) => node.x)) + MARGIN_X,
      height: Math.max(...part.nodes.map((node) => node.y)) + MARGIN_Y,
    };
  });
  boxes.sort((a, b) => b.height - a.height);
  const area = boxes.reduce((sum, box) => sum + box.width * box.height, 0);
  const most = Math.max(Math.sqrt(area * ASPECT), ...boxes.map((box) => box.width));
  let [x, y, rowHeight] = [0, 0, 0];
  for (const box of boxes) {
    if (x && x + box.width > most) [x, y, rowHeight] = [0, y + rowHeight, 0];
    for (const node of box.part.nodes) {
      node.x += x;
      node.y += y;
    }
    x += box.width;
    rowHeight = Math.max(rowHeight, box.height);
  }
}

// The connected parts of a graph, each {nodes, edges}.
function split(nodes, edges) {
  const partOf = new Map(nodes.map((node) => [node, {nodes: [node], edges: []}]));
  for (const edge of edges) {
    const [a, b] = [partOf.get(edge.from), partOf.get(edge.to)];
    const [large, small] = a.nodes.length >= b.nodes.length ? [a, b] : [b, a];
    if (large !== small) {
      for (const node of small.nodes) partOf.set(node, large);
      large.nodes.push(...small.nodes);
      large.edges.push(...small.edges);
    }
    large.edges.push(edge);
  }
  return [...new Set(partOf.values())];
}

function settle({nodes, edges}) {
  nodes.forEach((node, place) => { // a spiral: the same graph always looks the same
    const angle = place * 2.4;
    node.x = 30 * Math.sqrt(place) * Math.cos(angle);
    node.y = 30 * Math.sqrt(place) * Math.sin(angle);
  });
  const rounds = nodes.length > 60 ? 300 : 200;
  for (let round = 0; round < rounds; round += 1) {
    const heat = 40 * (1 - round / rounds) + 0.3;
    for (const node of nodes) {
      node.dx = -node.x * 0.02;
      node.dy = -node.y * 0.03;
    }
    for (let i = 0; i < nodes.length; i += 1)
      for (let j = i + 1; j < nodes.length; j += 1) {
        const [a, b] = [nodes[i], nodes[j]];
        const dx = a.x - b.x || 0.01;
        const dy = (a.y - b.y) * 1.5 || 0.01; // names are wider than high
        const force = (IDEAL * IDEAL) / (dx * dx + dy * dy);
        a.dx += dx * force;
        a.dy += dy * force;
        b.dx -= dx * force;
        b.dy -= dy * force;
      }
    for (const {from, to} of edges) {
      const [dx, dy] = [from.x - to.x, from.y - to.y];
      const force = Math.hypot(dx, dy) / IDEAL;
      from.dx -= dx * force;
      from.dy -= dy * force;
      to.dx += dx * force;
      to.dy += dy * force;
    }
    for (const node of nodes) {
      const length = Math.hypot(node.dx, node.dy) || 1;
      node.x += (node.dx / length) * Math.min(length, heat);
      node.y += (node.dy / length) * Math.min(length, heat);
    }
  }
}

// Returns {element, show(entries)}. colour: type → class; goTo(number) shows a sentence.
export function makeGraph(colour, goTo) {
  const picture = svg("svg", {role: "group", tabindex: "0"});
  const details = el("div", {class: "stack graph-details", "aria-live": "polite"});
  const note = el("p", {class: "quiet-text"});
  const view = {x: 0, y: 0, width: 900, height: 600};
  const button = (key, sign, action) => el("button", {type: "button", class: "icon", label: key, onclick: action}, sign);
  const tools = el("div", {class: "graph-tools"},
    button("zoom_in", "＋", () => zoom(0.8)), button("zoom_out", "−", () => zoom(1.25)), button("zoom_fit", "⤢", fit));
  const frame = el("div", {class: "graph"}, picture);
  const element = el("div", {class: "stack"}, el("div", {class: "row"}, note, tools), frame, details);
  let drawn = {nodes: [], edges: [], total: 0};

  function setView() {
    picture.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  }

  function zoom(factor, x = view.x + view.width / 2, y = view.y + view.height / 2) {
    if ((factor < 1 && view.width < 120) || (factor > 1 && view.width > 6000)) return;
    view.x = x - (x - view.x) * factor;
    view.y = y - (y - view.y) * factor;
    view.width *= factor;
    view.height *= factor;
    setView();
  }

  function fit() {
    const [xs, ys] = [drawn.nodes.map((node) => node.x), drawn.nodes.map((node) => node.y)];
    const box = picture.getBoundingClientRect();
    view.x = Math.min(...xs) - MARGIN_X;
    view.y = Math.min(...ys) - MARGIN_Y;
    view.width = Math.max(...xs) - view.x + MARGIN_X;
    view.height = Math.max(...ys) - view.y + MARGIN_Y + 10;
    const least = Math.max(box.width * 0.72, 320); // few entities shall not become giants
    if (view.width < least) {
      view.x -= (least - view.width) / 2;
      view.width = least;
    }
    setView();
  }

  function toPicture(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  picture.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.88 : 1.14, ...toPicture(event));
  }, {passive: false});

  // Dragging the background moves the view.
  picture.addEventListener("pointerdown", (event) => {
    if (event.target !== picture) return;
    let [x, y] = toPicture(event);
    follow(picture, event, (move) => {
      const [newX, newY] = toPicture(move);
      view.x -= newX - x;
      view.y -= newY - y;
      setView();
      [x, y] = toPicture(move);
    });
    select(null);
  });

  picture.addEventListener("keydown", (event) => {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (event.key === "Escape") select(null);
    else if (event.key === "+" || event.key === "=") zoom(0.8);
    else if (event.key === "-") zoom(1.25);
    else if (steps[event.key]) {
      view.x += (steps[event.key][0] * view.width) / 12;
      view.y += (steps[event.key][1] * view.height) / 12;
      setView();
    } else return;
    event.preventDefault();
  });

  function follow(target, start, onMove) {
    target.setPointerCapture(start.pointerId);
    const end = () => {
      target.removeEventListener("pointermove", onMove);
      target.removeEventListener("pointerup", end);
      target.removeEventListener("pointercancel", end);
    };
    target.addEventListener("pointermove", onMove);
    target.addEventListener("pointerup", end);
    target.addEventListener("pointercancel", end);
  }

  function drawEdge(edge) {
    edge.line = svg("path", {});
    edge.hit = svg("path", {class: "hit"});
    edge.text = svg("text", {}, shortened([...edge.predicates].join("、"), 14));
    edge.head = svg("path", {class: "arrow", d: "M0 0l-8 -3.6v7.2z"});
    edge.element = svg("g", {class: "edge", onclick: () => select(edge)}, edge.line, edge.head, edge.hit, edge.text);
    return edge.element;
  }

  function drawNode(node) {
    node.radius = 7 + Math.min(11, 2.2 * Math.sqrt(node.degree));
    node.element = svg("g", {
      class: `node ${colour(node.type)}`, tabindex: "0", role: "button",
      "aria-label": word("node_label", node.name, node.type, node.degree),
      onclick: () => select(node),
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        select(node);
      },
      onpointerdown: (event) => follow(node.element, event, (move) => {
        [node.x, node.y] = toPicture(move);
        put(node);
        for (const edge of drawn.edges) if (edge.from === node || edge.to === node) putEdge(edge);
      }),
    }, svg("title", {}, `${node.name}（${node.type}）`), svg("circle", {r: node.radius}),
    svg("text", {y: node.radius + 14}, shortened(node.name, 12)));
    return node.element;
  }

  function put(node) {
    node.element.setAttribute("transform", `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})`);
  }

  function putEdge({from, to, line, hit, text, head, curved}) {
    if (from === to) {
      const shape = `M${from.x - 5} ${from.y}c-40 -52 50 -52 10 0`;
      for (const path of [line, hit]) path.setAttribute("d", shape);
      text.setAttribute("x", from.x);
      text.setAttribute("y", from.y - 42);
      head.setAttribute("transform", `translate(${from.x + 5} ${from.y - from.radius}) rotate(100)`);
      return;
    }
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const length = Math.hypot(dx, dy) || 1;
    const bend = curved ? 16 : 0; // two facts in opposite directions
    const [middleX, middleY] = [(from.x + to.x) / 2 - (dy / length) * bend * 2, (from.y + to.y) / 2 + (dx / length) * bend * 2];
    for (const path of [line, hit]) path.setAttribute("d", `M${from.x} ${from.y}Q${middleX} ${middleY} ${to.x} ${to.y}`);
    const angle = Math.atan2(to.y - middleY, to.x - middleX);
    const below = Math.sin(angle) < -0.8; // the name stands there
    const tip = to.radius + (below ? 20 : 1.5);
    head.setAttribute("transform",
      `translate(${to.x - Math.cos(angle) * tip} ${to.y - Math.sin(angle) * tip}) rotate(${(angle * 180) / Math.PI})`);
    text.setAttribute("x", (from.x + to.x) / 4 + middleX / 2);
    text.setAttribute("y", (from.y + to.y) / 4 + middleY / 2 + 4);
  }

  function select(chosen) {
    const on = new Set(chosen ? [chosen] : []);
    if (chosen?.from) on.add(chosen.from).add(chosen.to);
    else if (chosen) for (const edge of drawn.edges) if (edge.from === chosen || edge.to === chosen) on.add(edge).add(edge.from).add(edge.to);
    frame.classList.toggle("lit", Boolean(chosen));
    for (const each of [...drawn.nodes, ...drawn.edges]) each.element.classList.toggle("on", on.has(each));
    replace(details, chosen ? listSentences(chosen) : []);
  }

  function listSentences({facts}) {
    const lines = facts.slice(0, LISTED).map(({item, fact}) => el("div", {class: "row"},
      el("button", {type: "button", class: "button-link", onclick: () => goTo(item.number)}, word("show_sentence", item.number)),
      el("span", {}, `${fact.subject} — ${fact.predicate} → ${fact.object}`),
      el("span", {class: "quiet-text"}, shortened(item.text, 60))));
    if (facts.length > LISTED) lines.push(el("p", {class: "quiet-text"}, word("more_sentences", facts.length - LISTED)));
    return lines;
  }

  function show(entries) {
    drawn = collect(entries);
    arrange(drawn);
    const directions = new Set(drawn.edges.map((edge) => edge.key));
    for (const edge of drawn.edges) edge.curved = edge.from !== edge.to && directions.has(`${edge.to.key}\n\n${edge.from.key}`);
    frame.classList.remove("lit");
    frame.hidden = tools.hidden = !drawn.nodes.length;
    note.textContent = !drawn.nodes.length ? word("graph_empty")
      : drawn.total > drawn.nodes.length ? word("graph_cut", drawn.nodes.length, drawn.total) : word("graph_help");
    replace(details);
    picture.setAttribute("aria-label", word("graph"));
    replace(picture, drawn.edges.map(drawEdge), drawn.nodes.map(drawNode));
    drawn.nodes.forEach(put);
    drawn.edges.forEach(putEdge);
    if (drawn.nodes.length) fit();
  }

  return {element, show};
}
