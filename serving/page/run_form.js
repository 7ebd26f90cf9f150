// The form for a new training, made of the knobs as the service describes them.

import {call, getJson} from "./api.js";
import {el, replace} from "./dom.js";
import {KNOBS, SECTIONS, rangeOf} from "./knob_words.js";
import {addWords, applyWords, word} from "./words.js";

addWords({
  form_title: ["新的训练", "New training"],
  form_name: ["名字", "Name"],
  form_name_help: ["结果放在训练目录下的这个名字里", "results go below the folder of runs, under this name"],
  form_plan: ["看显存计划", "Show the memory plan"],
  form_start: ["开始训练", "Start training"],
  form_default: ["默认 {0}", "default {0}"],
  form_none: ["（无）", "(none)"],
  form_changed: ["改了 {0} 项", "{0} changed"],
  form_unset: ["恢复默认", "Back to defaults"],
  form_planning: ["正在计算……", "Working it out …"],
  form_no_name: ["请先起一个名字。", "Give it a name first."],
  form_started: ["{0} 已开始。", "{0} has begun."],
  form_busy: ["训练 {0} 正在进行，一次只能有一个。", "{0} is training; there can be one at a time."],
});

// The lines of a plan: a name and a size are the cells of a table, others are paragraphs.
function showPlan(text) {
  const element = el("div", {class: "plan"});
  let body = null;
  for (const line of text.split("\n").map((each) => each.trim()).filter(Boolean)) {
    const [, part, size] = /^(.*?)\s{2,}(\S.*)$/.exec(line) ?? [];
    if (size) {
      if (!body) element.append(el("table", {class: "compact"}, body = el("tbody")));
      body.append(el("tr", {}, el("th", {scope: "row"}, part), el("td", {class: "number"}, size)));
    } else {
      body = null;
      element.append(el("p", {}, line));
    }
  }
  return element;
}

// Returns the element of the form. begun(name) is called when a training has been started.
export async function makeForm(begun) {
  const described = await getJson("/v1/training");
  const defaults = new Map();
  const fields = new Map(); // name → {read()}
  const name = el("input", {type: "text", id: "run-name", required: true, maxlength: "60", autocomplete: "off", spellcheck: "false"});
  const note = el("div", {class: "note", role: "status", id: "training-note"});
  const rows = el("div", {class: "stack", id: "training-plan"});
  const changed = el("span", {class: "quiet-text", role: "status"});
  const form = el("form", {class: "card stack", id: "training-form", novalidate: true}, el("h2", {word: "form_title"}),
    el("div", {class: "field"}, el("label", {for: "run-name", word: "form_name"}), name, el("span", {class: "help", word: "form_name_help"})));

  for (const {title, knobs} of described.sections) {
    const box = el("div", {class: "knobs"}, knobs.map((knob) => makeField(knob)));
    addWords({[`section_${title}`]: [title, SECTIONS[title] ?? title]});
    form.append(el("details", {open: title === described.sections[0].title}, el("summary", {word: `section_${title}`}), box));
  }

  function makeField(knob) {
    const id = `knob-${knob.name}`;
    const fallback = knob.value;
    defaults.set(knob.name, JSON.stringify(fallback));
    let control;
    let read;
    if (knob.kind === "bool") {
      control = el("input", {type: "checkbox", id, checked: fallback === true});
      read = () => control.checked;
    } else if (knob.kind === "choice") {
      const options = knob.choices.map((choice) => el("option", {value: choice}, choice || word("form_none")));
      if (knob.optional) options.unshift(el("option", {value: "\0"}, word("form_none")));
      control = el("select", {id}, options);
      control.value = fallback === null ? "\0" : String(fallback);
      read = () => (control.value === "\0" ? null : {true: true, false: false}[control.value] ?? control.value);
    } else if (knob.kind === "int" || knob.kind === "float") {
      control = el("input", {type: "text", inputmode: knob.kind === "int" ? "numeric" : "decimal", id, value: String(fallback)});
      read = () => (control.value.trim() === "" || Number.isNaN(Number(control.value)) ? control.value : Number(control.value));
    } else {
      control = el("input", {type: "text", id, value: Array.isArray(fallback) ? fallback.join(" ") : fallback ?? "", spellcheck: "false"});
      if (knob.kind === "list") read = () => control.value.split(/[\s,，]+/).filter(Boolean);
      else read = () => (knob.optional && control.value.trim() === "" ? null : control.value.trim());
    }
    control.setAttribute("aria-describedby", `${id}-help`);
    fields.set(knob.name, {read, control});
    const label = el("label", {for: id}, el("code", {}, knob.name));
    const isNumber = knob.kind === "int" || knob.kind === "float";
    const english = KNOBS[knob.name] ?? knob.help;
    addWords({[id]: isNumber ? [`${knob.help}；${knob.range}`, `${english}; ${rangeOf(knob)}`] : [knob.help, english]});
    const help = el("span", {class: "help", id: `${id}-help`, word: id});
    return el("div", {class: `field ${knob.kind === "bool" ? "switch" : ""}`}, label, control, help);
  }

  function wish() {
    const knobs = {};
    for (const [key, {read}] of fields) {
      const value = read();
      if (JSON.stringify(value) !== defaults.get(key)) knobs[key] = value;
    }
    return {name: name.value.trim(), knobs};
  }

  function say(text, kind = "") {
    note.className = `note ${kind}`;
    note.textContent = text;
  }

  async function plan() {
    say(word("form_planning"));
    rows.replaceChildren();
    try {
      const answer = await (await call("/v1/training/plan", {method: "POST", body: wish()})).json();
      say("");
      replace(rows, answer.rows.map(({verdict, item, text}) =>
        el("div", {class: "stack"}, el("b", {}, `${item}：${verdict}`), showPlan(text))));
    } catch (error) {
      say(error.message, "bad");
    }
  }

  const start = el("button", {type: "submit", class: "primary", word: "form_start"});
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!name.value.trim()) {
      say(word("form_no_name"), "warn");
      name.focus();
      return;
    }
    start.disabled = true;
    try {
      const {name: begunName} = await (await call("/v1/training", {method: "POST", body: wish()})).json();
      say(word("form_started", begunName), "good");
      begun(begunName);
    } catch (error) {
      say(error.message, "bad");
    } finally {
      start.disabled = false;
    }
  });
  form.addEventListener("input", () => {
    const count = Object.keys(wish().knobs).length;
    changed.textContent = count ? word("form_changed", count) : "";
  });
  form.append(el("div", {class: "row"}, el("button", {type: "button", word: "form_plan", onclick: plan}), start, changed), note, rows);
  if (described.busy) say(word("form_busy", described.busy), "warn");
  applyWords(form);
  return form;
}
