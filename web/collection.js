// The sentences on show, and which of their facts the reader wants to see.
//
// An item is {number, text, facts, gold, error, raw, repaired, truncated, source_truncated}; a fact is a triplet
// {predicate, subject, object, subject_type, object_type} with `score` and spans in code points, where known.
// With labelled data, `gold` lists the expected facts and a found fact's `match` is its place in there, or null.

import {findValue, folded, toUnits, unitsOf} from "./text.js";

const COLOURS = 10;

export class Collection {
  constructor() {
    this.listeners = new Set();
    this.clear();
  }

  clear() {
    this.items = [];
    this.types = new Map(); // name → place, in the order of their coming: their colour
    this.predicates = new Map(); // name → number of facts found or expected
    this.hasScores = false;
    this.hasGold = false;
    this.filter = {query: "", predicates: new Set(), minScore: 0, kind: "all"};
    this.pending = false;
    this.changed();
  }

  add(items) {
    for (const item of items) {
      this.items.push(item);
      if (item.gold) this.hasGold = true;
      for (const fact of item.facts) {
        if (fact.score !== undefined && fact.score !== null) this.hasScores = true;
        this.count(fact);
      }
      item.gold?.forEach((fact, place) => {
        if (!item.facts.some((found) => found.match === place)) this.count(fact);
      });
    }
    this.changed();
  }

  count(fact) {
    this.predicates.set(fact.predicate, (this.predicates.get(fact.predicate) ?? 0) + 1);
    for (const type of [fact.subject_type, fact.object_type])
      if (!this.types.has(type)) this.types.set(type, this.types.size);
  }

  // The class that gives a type its colour.
  colour(type) {
    return `t${(this.types.get(type) ?? 0) % COLOURS}`;
  }

  setFilter(changes) {
    Object.assign(this.filter, changes);
    this.changed();
  }

  // Calls the listeners once before the next frame, however often it is called until then.
  changed() {
    this.cache = null;
    if (this.pending) return;
    this.pending = true;
    const tell = () => {
      this.pending = false;
      for (const listener of this.listeners) listener();
    };
    // A hidden page draws no frames.
    if (document.visibilityState === "visible") requestAnimationFrame(tell);
    else setTimeout(tell, 200);
  }

  // The facts of an item that pass score and predicates, each {fact, status, place}: with labelled data the
  // status is correct, spurious or missing (expected, and not among those found that pass).
  factsOf(item) {
    const {predicates, minScore} = this.filter;
    const wanted = (fact) => !predicates.size || predicates.has(fact.predicate);
    const found = item.facts.filter((fact) => (fact.score ?? 1) >= minScore);
    const facts = found.filter(wanted).map((fact) => ({
      fact, status: item.gold ? (fact.match === null || fact.match === undefined ? "spurious" : "correct") : null,
    }));
    if (item.gold) {
      const met = new Set(found.map((fact) => fact.match));
      item.gold.forEach((fact, place) => {
        if (!met.has(place) && wanted(fact)) facts.push({fact, status: "missing"});
      });
    }
    return facts;
  }

  // What passes all filters: [{item, facts}].
  visible() {
    if (this.cache) return this.cache;
    const {query, predicates, kind} = this.filter;
    const needle = folded(query.trim());
    const result = [];
    for (const item of this.items) {
      if (needle && !this.matches(item, needle)) continue;
      const facts = this.factsOf(item);
      if (predicates.size && !facts.length) continue;
      if (!KINDS[kind](item, facts)) continue;
      result.push({item, facts});
    }
    this.cache = result;
    return result;
  }

  matches(item, needle) {
    item.folded ??= folded([item.text, item.error ?? "", ...[...item.facts, ...(item.gold ?? [])].flatMap((fact) =>
      [fact.subject, fact.predicate, fact.object])].join("\n"));
    return item.folded.includes(needle);
  }

  // Numbers over all items at the present score and predicates, whatever is searched for.
  totals() {
    const totals = {sentences: this.items.length, facts: 0, failed: 0, correct: 0, spurious: 0, missing: 0};
    for (const item of this.items) {
      if (item.error) totals.failed += 1;
      for (const {status} of this.factsOf(item)) {
        if (status !== "missing") totals.facts += 1;
        if (status) totals[status] += 1;
      }
    }
    return totals;
  }
}

export const KINDS = {
  all: () => true,
  with: (item, facts) => facts.length > 0,
  without: (item, facts) => facts.length === 0 && !item.error,
  failed: (item) => Boolean(item.error),
  wrong: (item, facts) => facts.some(({status}) => status === "spurious" || status === "missing"),
  right: (item, facts) => Boolean(item.gold) && !item.error && facts.every(({status}) => status === "correct"),
};

// Turns a line of results, or one item of the service's answer, into an item.
export function makeItem(number, line) {
  const {text, triplets, ...rest} = line;
  return {number, text: String(text ?? ""), facts: triplets ?? [], ...rest};
}

// Where the ends of a fact stand in its text, in UTF-16 units; where no span is given they are searched for.
export function endsOf(item, fact) {
  item.units ??= unitsOf(item.text);
  const object = toUnits(item.units, fact.object_span);
  const subject = toUnits(item.units, fact.subject_span) ?? findValue(item.text, fact.subject, object?.[0] ?? 0);
  return {subject, object: object ?? findValue(item.text, fact.object, subject?.[0] ?? 0)};
}
