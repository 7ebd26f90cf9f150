// A long list a page at a time, so that ten thousand sentences cost no more than twenty.

import {el, replace} from "./dom.js";
import {addWords, word} from "./words.js";

addWords({
  previous: ["上一页", "Previous"],
  next: ["下一页", "Next"],
  page_of: ["共 {0} 页，第", "of {0} pages, page"],
  page_number: ["页码", "Page number"],
  nothing: ["没有符合条件的句子。", "No sentence passes the filters."],
});

const keyOf = (entry) => entry.fact ?? entry.item ?? entry;

export class Pages {
  // size: entries a page; draw(entry): its element; around(elements): what holds a page's elements.
  constructor(size, draw, around = (elements) => elements) {
    this.size = size;
    this.draw = draw;
    this.around = around;
    this.page = 0;
    this.entries = [];
    this.shown = null;
    this.body = el("div", {class: "page-body"});
    this.bar = el("div", {class: "pager"});
    this.element = el("div", {}, this.body, this.bar);
  }

  // Shows other entries, from the first page unless `keep`; a page whose entries are the same stays as it is.
  show(entries, keep = false) {
    this.entries = entries;
    if (keep && this.isShown()) this.drawBar();
    else this.go(keep ? this.page : 0);
  }

  // Makes sure that the next `show` draws.
  forget() {
    this.shown = null;
  }

  isShown() {
    const now = this.slice();
    return this.shown?.length === now.length && now.every((entry, place) => keyOf(entry) === this.shown[place]);
  }

  slice() {
    return this.entries.slice(this.page * this.size, (this.page + 1) * this.size);
  }

  get count() {
    return Math.max(1, Math.ceil(this.entries.length / this.size));
  }

  go(page) {
    this.page = Math.min(Math.max(page, 0), this.count - 1);
    const shown = this.slice();
    this.shown = shown.map(keyOf);
    replace(this.body, shown.length ? this.around(shown.map(this.draw)) : el("p", {class: "empty"}, word("nothing")));
    this.drawBar();
  }

  // Turns to the page of an entry and returns its place on it.
  goTo(index) {
    this.go(Math.floor(index / this.size));
  }

  drawBar() {
    this.bar.hidden = this.count < 2;
    const turn = (step) => () => {
      this.go(this.page + step);
      this.bar.querySelector(step < 0 ? "button" : "button:last-child").focus();
      this.element.scrollIntoView({block: "start"});
    };
    const number = el("input", {
      type: "number", min: 1, max: this.count, value: String(this.page + 1), "aria-label": word("page_number"),
      onchange: (event) => this.go(Number(event.target.value) - 1),
    });
    replace(this.bar,
      el("button", {type: "button", disabled: this.page === 0, onclick: turn(-1)}, word("previous")),
      el("span", {class: "quiet-text number"}, word("page_of", this.count)), number,
      el("button", {type: "button", disabled: this.page === this.count - 1, onclick: turn(1)}, word("next")));
  }
}
