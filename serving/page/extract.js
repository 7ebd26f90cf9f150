// The tab for extraction: sentences in on the left, what was found in them on the right.

import {ApiError, getJson, setKey} from "./api.js";
import {Collection, makeItem} from "./collection.js";
import {el, replace} from "./dom.js";
import {readFile} from "./files_in.js";
import {sendAll} from "./sending.js";
import {makeToolbar} from "./toolbar.js";
import {makeViews} from "./views.js";
import {addWords, applyWords, onLanguage, word} from "./words.js";

addWords({
  input: ["句子", "Sentences"],
  input_help: ["每行一句；Ctrl+Enter 开始", "One sentence a line; Ctrl+Enter to start"],
  drop: ["或把 txt、JSONL、CSV 文件拖到这里", "or drop a txt, JSONL or CSV file here"],
  choose: ["选择文件", "Choose a file"],
  extract: ["抽取", "Extract"],
  stop: ["停止", "Stop"],
  go_on: ["继续其余 {0} 句", "Go on with the other {0}"],
  examples: ["试一句", "Try one"],
  model: ["模型", "Model"],
  which_predicates: ["只抽取这些关系", "Extract these predicates only"],
  which_all: ["（全不选就是全部）", "(none chosen: all)"],
  key: ["API 密钥", "API key"],
  key_help: ["这个服务要密钥；只留在这个标签页里。", "This service wants a key; it stays in this tab of the browser."],
  key_use: ["使用", "Use"],
  key_wrong: ["密钥不对。", "The key is wrong."],
  loading: ["服务正在加载模型……", "The service is loading its model …"],
  reading: ["正在读 {0}……", "Reading {0} …"],
  busy: ["服务正忙，{0} 秒后再试。", "The service is busy; trying again in {0} s."],
  progress: ["{0} / {1} 句，{2} 句/秒", "{0} of {1} sentences, {2} per second"],
  done: ["{0} 句，用时 {1} 秒，每句 {2} 秒。", "{0} sentences in {1} s, {2} s each."],
  stopped: ["已停止，完成 {0} / {1} 句。", "Stopped after {0} of {1} sentences."],
  failed_after: ["{0} 已完成 {1} / {2} 句。", "{0} {1} of {2} sentences are done."],
  file_read: ["{0}：{1} 句。", "{0}: {1} sentences."],
  file_results: ["{0}：{1} 句抽取过的结果，直接显示。", "{0}: results of {1} sentences, shown as they are."],
  file_skipped: ["{0} 行不能用，已略过。", "{0} lines can't be used and are left out."],
  no_input: ["请先写一个句子。", "Write a sentence first."],
  doubtful: ["这个模型置信度低于 {0} 的三元组多半是错的。", "With this model, triplets that score below {0} are rather wrong than right."],
  doubtful_use: ["略去它们", "Leave them out"],
  welcome: ["写几个句子，或拖一个文件进来，结果会显示在这里。", "Write some sentences, or drop a file: what is found in them appears here."],
});

const EXAMPLES = [
  "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。",
  "《活着》是作家余华创作的长篇小说，1993年由作家出版社出版。",
  "《青花瓷》由方文山作词，周杰伦作曲并演唱，收录在专辑《我很忙》中。",
];
const RETRY = 1500; // milliseconds between two looks at a service that is still loading

export function mountExtract(panel) {
  const collection = new Collection();
  const input = el("textarea", {id: "sentences", rows: 7, spellcheck: "false", label: "input", "data-placeholder": "input_help"});
  const file = el("input", {type: "file", id: "file", class: "visually-hidden", accept: ".txt,.jsonl,.json,.ndjson,.csv,.tsv", tabindex: "-1", "aria-hidden": "true"});
  const drop = el("div", {class: "drop"},
    el("button", {type: "button", word: "choose", onclick: () => file.click()}), el("span", {word: "drop"}));
  const start = el("button", {type: "button", class: "primary", id: "start", word: "extract"});
  const stop = el("button", {type: "button", id: "stop", word: "stop", hidden: true});
  const rest = el("button", {type: "button", id: "go-on", hidden: true});
  const bar = el("progress", {hidden: true, max: "1", value: "0", label: "extract"});
  const note = el("p", {class: "note", role: "status", id: "note"});
  const skipped = el("p", {class: "note warn", role: "status"});
  const doubtful = el("div", {class: "row quiet-text", hidden: true});
  const model = el("select", {id: "model"});
  const modelField = el("div", {class: "field", hidden: true}, el("label", {for: "model", word: "model"}), model);
  const predicates = el("div", {class: "row chips", id: "wanted"});
  const predicateField = el("details", {hidden: true}, el("summary", {}, el("span", {word: "which_predicates"}), " ", el("span", {word: "which_all"})), predicates);
  const key = el("input", {type: "password", id: "key", autocomplete: "off"});
  const keyForm = el("form", {class: "stack card", hidden: true},
    el("label", {for: "key", word: "key"}), el("p", {class: "quiet-text", word: "key_help"}),
    el("div", {class: "row"}, key, el("button", {type: "submit", word: "key_use"})), el("p", {class: "note bad", role: "alert", id: "key-note"}));
  const examples = el("div", {class: "row chips"}, el("span", {class: "quiet-text", word: "examples"}),
    EXAMPLES.map((sentence) => el("button", {type: "button", class: "chip", onclick: () => {
      input.value = sentence;
      input.focus();
    }}, sentence.slice(0, sentence.indexOf("》") + 1))));
  const results = el("div", {class: "stack", hidden: true});
  const welcome = el("p", {class: "empty", word: "welcome"});
  const toolbar = makeToolbar(collection);
  const views = makeViews(collection);
  toolbar.append(doubtful);
  results.append(el("div", {class: "card"}, toolbar), views.element);
  panel.append(el("div", {class: "columns"},
    el("div", {class: "stack"}, keyForm, el("div", {class: "card stack"},
      el("h2", {}, el("label", {for: "sentences", word: "input", class: "plain"})), input, drop, file, examples, modelField, predicateField,
      el("div", {class: "row"}, start, stop, rest), bar, note, skipped)),
    el("div", {class: "stack"}, welcome, results)));

  const state = {models: [], limit: 64, left: null, wanted: new Set(), control: null};

  function say(text, kind = "") {
    note.className = `note ${kind}`;
    note.textContent = text;
  }

  async function connect() {
    try {
      state.models = (await getJson("/v1/models")).data;
      const health = await (await fetch("/health")).json();
      state.limit = health.limits?.sentences ?? state.limit;
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        if (!keyForm.hidden) keyForm.querySelector(".note").textContent = word("key_wrong");
        keyForm.hidden = false;
        key.focus();
        return;
      }
      if (error.status === 503) {
        say(word("loading"));
        setTimeout(connect, RETRY);
      } else say(error.message, "bad");
      return;
    }
    keyForm.hidden = true;
    if (note.textContent === word("loading")) say("");
    replace(model, state.models.map(({id}) => el("option", {value: id}, id)));
    modelField.hidden = state.models.length < 2;
    drawModel();
  }

  function chosenModel() {
    return state.models.find(({id}) => id === model.value) ?? state.models[0];
  }

  function drawModel() {
    const known = chosenModel()?.predicates ?? [];
    predicateField.hidden = !known.length;
    state.wanted = new Set([...state.wanted].filter((name) => known.includes(name)));
    replace(predicates, known.map((name) => {
      const button = el("button", {type: "button", class: "chip", "aria-pressed": String(state.wanted.has(name)), onclick: () => {
        if (!state.wanted.delete(name)) state.wanted.add(name);
        button.setAttribute("aria-pressed", String(state.wanted.has(name)));
      }}, name);
      return button;
    }));
    drawDoubtful();
  }

  function drawDoubtful() {
    const level = chosenModel()?.half_right_score;
    doubtful.hidden = !level || !collection.hasScores;
    if (!doubtful.hidden)
      replace(doubtful, word("doubtful", level), el("button", {type: "button", class: "button-link", onclick: () => collection.setFilter({minScore: level})}, word("doubtful_use")));
  }

  function showResults(shown) {
    results.hidden = !shown;
    welcome.hidden = shown;
  }

  async function run(texts, fresh = true) {
    if (state.control) return;
    if (!texts.length) return say(word("no_input"), "warn");
    if (fresh) {
      collection.clear();
      showResults(false);
    }
    const waiting = new Map(); // results that came before an earlier sentence's
    const add = (lines) => collection.add(lines.map((line, place) => makeItem(collection.items.length + place + 1, line)));
    let next = 0;
    let again = 0; // when a service that is full will be asked again
    const begun = performance.now();
    const seconds = () => (performance.now() - begun) / 1000;
    const options = {};
    if (state.models.length > 1) options.model = model.value;
    if (state.wanted.size) options.predicates = [...state.wanted];
    state.control = new AbortController();
    running(true);
    const timer = setInterval(() => {
      bar.value = (next + waiting.size) / texts.length;
      const wait = Math.ceil((again - performance.now()) / 1000);
      say(wait > 0 ? word("busy", wait) : word("progress", next + waiting.size, texts.length, ((next + waiting.size) / seconds()).toFixed(1)));
    }, 250);
    try {
      await sendAll(texts, options, {
        signal: state.control.signal, limit: state.limit,
        onWait: (wait) => {
          again = performance.now() + wait * 1000;
        },
        onResult: (place, line, latency) => {
          again = 0;
          waiting.set(place, {...line, seconds: latency});
          const ready = [];
          for (; waiting.has(next); next += 1) {
            ready.push(waiting.get(next));
            waiting.delete(next);
          }
          if (ready.length) {
            add(ready);
            showResults(true);
          }
        },
      });
      state.left = null;
      say(word("done", texts.length, seconds().toFixed(1), (seconds() / texts.length).toFixed(2)), "good");
    } catch (error) {
      // What has come is kept, in the order of the sentences; the others can be sent later.
      add([...waiting].sort((a, b) => a[0] - b[0]).map(([, line]) => line));
      state.left = texts.filter((_, place) => place >= next && !waiting.has(place));
      const count = texts.length - state.left.length;
      if (error.name === "AbortError") say(word("stopped", count, texts.length), "warn");
      else say(word("failed_after", error.message, count, texts.length), "bad");
      if (error instanceof ApiError && error.status === 401) connect();
    } finally {
      clearInterval(timer);
      state.control = null;
      running(false);
      showResults(collection.items.length > 0);
      drawDoubtful();
    }
  }

  function running(on) {
    start.disabled = on;
    stop.hidden = !on;
    bar.hidden = !on;
    bar.value = 0;
    rest.hidden = on || !state.left?.length;
    rest.textContent = word("go_on", state.left?.length ?? 0);
  }

  async function take(chosen) {
    if (!chosen || state.control) return;
    replace(skipped);
    say(word("reading", chosen.name));
    try {
      const {texts, results: lines, skipped: count} = await readFile(chosen);
      if (count) skipped.textContent = word("file_skipped", count);
      if (lines) {
        collection.clear();
        collection.add(lines.map((line, place) => makeItem(place + 1, line)));
        showResults(true);
        drawDoubtful();
        say(word("file_results", chosen.name, lines.length), "good");
        return;
      }
      say(word("file_read", chosen.name, texts.length));
      await run(texts);
    } catch (error) {
      say(error.message, "bad");
    }
  }

  function send() {
    replace(skipped);
    run(input.value.split("\n").map((line) => line.trim()).filter(Boolean));
  }

  start.addEventListener("click", send);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  stop.addEventListener("click", () => state.control?.abort());
  rest.addEventListener("click", () => run(state.left, false));
  model.addEventListener("change", drawModel);
  file.addEventListener("change", () => {
    take(file.files[0]);
    file.value = "";
  });
  keyForm.addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(key.value.trim());
    connect();
  });
  panel.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  panel.addEventListener("dragleave", () => drop.classList.remove("over"));
  panel.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  onLanguage(() => {
    drawDoubtful();
    running(Boolean(state.control));
  });
  applyWords(panel);
  connect();
}
