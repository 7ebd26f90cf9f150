// Tables that can be sorted by a click on a column's head.

import {el, replace} from "./dom.js";
import {currentLanguage, word} from "./words.js";

// Returns {element, show(rows)}.
//   columns: [{word, value(row): text or number, draw(row): element or text (as `value` if not given), number}]
//   pages(draw, around): a Pages, or null to show all rows.
export function makeTable(columns, makePages = null) {
  let rows = [];
  let order = null; // {column, descending}
  const body = el("tbody");
  const heads = columns.map((column) => el("th", {class: classOf(column), scope: "col"},
    el("button", {type: "button", word: column.word, onclick: () => sortBy(column)}, word(column.word))));
  const table = el("table", {}, el("thead", {}, el("tr", {}, heads)), body);
  const scroll = el("div", {class: "scroll", tabindex: "0", role: "region", label: "table"}, table);
  const pages = makePages?.(drawRow, (elements) => {
    replace(body, elements);
    return scroll;
  });

  function sortBy(column) {
    order = {column, descending: order?.column === column ? !order.descending : Boolean(column.number)};
    heads.forEach((head, place) => {
      if (columns[place] === column) head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    draw();
  }

  function drawRow(row) {
    return el("tr", {}, columns.map((column) => el("td", {class: classOf(column)},
      column.draw ? column.draw(row) : String(column.value(row) ?? ""))));
  }

  function draw(keep = false) {
    const sorted = order ? [...rows].sort(compare(order)) : rows;
    if (pages) pages.show(sorted, keep);
    else replace(body, sorted.map(drawRow));
  }

  return {
    forget: () => pages?.forget(),
    element: pages ? pages.element : scroll,
    show(newRows, keep = false) {
      rows = newRows;
      draw(keep);
    },
  };
}

function classOf(column) {
  return `${column.word}${column.number ? " number" : ""}`;
}

function compare({column, descending}) {
  const collator = new Intl.Collator(currentLanguage() === "zh" ? "zh-CN" : "en", {numeric: true});
  const sign = descending ? -1 : 1;
  return (a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === y) return 0;
    if (x === null || x === undefined) return 1; // what is unknown stands last either way
    if (y === null || y === undefined) return -1;
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : collator.compare(String(x), String(y)));
  };
}
