// The tab for runs of training: a list, the curves of one or several, live; what one's evaluation says.

import {call, getJson, setKey} from "./api.js";
import {el, replace} from "./dom.js";
import {makeChart} from "./run_charts.js";
import {makeForm} from "./run_form.js";
import {GB, gigabytes, makeMemory, makeReport} from "./run_report.js";
import {addWords, applyWords, onLanguage, word} from "./words.js";

addWords({
  runs: ["训练", "Runs"],
  runs_none: ["训练目录里还没有训练。运行 python train.py，或用 --runs 指定别的目录。", "There is no run in the folder of runs yet. Run python train.py, or name another folder by --runs."],
  runs_off: ["这个服务不显示训练。", "This service shows no runs."],
  run_running: ["进行中", "running"],
  run_finished: ["完成", "finished"],
  run_broken: ["未完成", "not finished"],
  run_compare: ["一起看：{0}", "Show too: {0}"],
  run_steps: ["{0} / {1} 步", "{0} of {1} steps"],
  run_step: ["{0} 步", "step {0}"],
  run_choose: ["选一个训练，曲线显示在这里。", "Choose a run: its curves appear here."],
  run_new: ["新的训练", "New training"],
  run_close: ["关闭", "Close"],
  run_stop: ["保存并停止", "Save and stop"],
  run_resume: ["继续", "Resume"],
  run_stopping: ["已请求停止，这一步完成并保存后结束。", "Asked to stop: it ends once this step is done and saved."],
  run_resuming: ["正在启动……", "Starting …"],
  run_log: ["日志", "Log"],
  run_knobs: ["参数", "Knobs"],
  run_left: ["剩余", "left"],
  run_speed: ["token/秒", "tokens/s"],
  run_epoch: ["轮", "epoch"],
  run_memory: ["内存峰值", "peak memory"],
  run_at: ["步", "steps"],
  curve_loss: ["损失", "Loss"],
  curve_dev_loss: ["验证集损失", "dev loss"],
  curve_train_loss: ["训练损失", "training loss"],
  curve_f1: ["验证集 F1", "F1 on dev"],
  curve_learning_rate: ["学习率", "Learning rate"],
  curve_memory: ["内存", "Memory"],
  curve_speed: ["每秒的 token", "Tokens per second"],
  curve_grad: ["梯度范数", "Gradient norm"],
});

const LIST_EVERY = 3000; // milliseconds
const METRICS_EVERY = 2000;
const LOG_EVERY = 4000;

export function mountRun(panel) {
  const list = el("ul", {class: "runs"});
  const note = el("p", {class: "note", role: "status"});
  const key = el("input", {type: "password", id: "run-key", autocomplete: "off"});
  const keyForm = el("form", {class: "stack card", hidden: true}, el("label", {for: "run-key", word: "key"}),
    el("p", {class: "quiet-text", word: "key_help"}), el("div", {class: "row"}, key, el("button", {type: "submit", word: "key_use"})));
  const create = el("button", {type: "button", id: "new-training", word: "run_new", hidden: true, "aria-expanded": "false"});
  const formPlace = el("div", {id: "training", hidden: true});
  const head = el("div");
  const charts = el("div", {class: "curves", id: "curves"});
  const details = el("div", {class: "stack"});
  const welcome = el("p", {class: "empty", word: "run_choose"});
  panel.append(el("div", {class: "columns"},
    el("div", {class: "stack"}, keyForm, el("div", {class: "card stack"}, el("div", {class: "row"}, el("h2", {word: "runs"}), create), list, note)),
    el("div", {class: "stack"}, formPlace, welcome, head, charts, details)));

  const data = new Map(); // name → {train: [], eval: [], final, next}
  const state = {runs: [], chosen: null, compared: new Set(), allowed: false, visible: false, timers: [], about: null, told: null, drawn: ""};

  key.form.addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(key.value);
    refresh();
  });

  async function refresh() {
    try {
      const answer = await getJson("/v1/runs");
      state.runs = answer.runs;
      state.allowed = answer.allow_training;
      keyForm.hidden = true;
      note.textContent = state.runs.length ? "" : word("runs_none");
      note.className = "note";
    } catch (error) {
      keyForm.hidden = !(error.status === 401 || error.status === 403);
      note.className = "note bad";
      note.textContent = error.status === 404 ? word("runs_off") : error.message;
      return;
    }
    create.hidden = !state.allowed;
    drawList();
    drawHead();
    followEnd();
    const named = decodeURIComponent(location.hash.split("/")[1] ?? "");
    const wanted = state.runs.find(({name}) => name === named) ?? (state.chosen ? null : state.runs[0]);
    if (wanted && wanted.name !== state.chosen) choose(wanted.name, Boolean(named));
  }

  // When the chosen run begins or ends, what is told of it is asked for again.
  function followEnd() {
    const run = state.runs.find(({name}) => name === state.chosen);
    const now = run && `${run.name} ${run.running} ${run.has_report}`;
    if (run && state.about && state.told && state.told !== now) follow().then(() => tell(run.name));
    state.told = now;
  }

  function drawList() {
    const focus = document.activeElement?.id;
    replace(list, state.runs.map((run) => {
      const status = run.running ? "run_running" : run.finished ? "run_finished" : "run_broken";
      const steps = run.total_steps ? word("run_steps", run.step, run.total_steps) : word("run_step", run.step);
      const check = el("input", {type: "checkbox", id: `compare-${run.name}`, "aria-label": word("run_compare", run.name),
        checked: state.compared.has(run.name) || run.name === state.chosen, disabled: run.name === state.chosen, onchange: () => compare(run.name, check.checked)});
      const figures = [steps, run.triplet_f1 !== undefined && `F1 ${run.triplet_f1.toFixed(3)}`, run.loss !== undefined && `loss ${run.loss.toFixed(3)}`];
      return el("li", {class: run.name === state.chosen ? "on" : ""}, check,
        el("button", {type: "button", id: `run-${run.name}`, "aria-pressed": String(run.name === state.chosen), onclick: () => choose(run.name, true)},
          el("span", {class: "run-name"}, el("i", {class: `dot ${colourOf(run.name)}`}), run.name),
          el("span", {class: `state ${status}`}, word(status)), el("span", {class: "quiet-text number"}, figures.filter(Boolean).join(" · "))));
    }));
    if (focus) document.getElementById(focus)?.focus();
  }

  function colourOf(name) {
    const place = [state.chosen, ...state.compared].filter((each, at, all) => each && all.indexOf(each) === at).indexOf(name);
    return place < 0 ? "" : `t${place % 10}`;
  }

  function compare(name, wanted) {
    if (wanted) state.compared.add(name);
    else state.compared.delete(name);
    drawList();
    follow();
  }

  function choose(name, byHand) {
    if (byHand) history.replaceState(null, "", `#run/${encodeURIComponent(name)}`);
    if (name === state.chosen) return;
    state.chosen = name;
    state.compared.delete(name);
    welcome.hidden = true;
    state.about = null;
    details.replaceChildren();
    drawList();
    follow().then(() => tell(name)); // the memory plan shows what was measured, too
  }

  async function tell(name) {
    try {
      const about = await getJson(`/v1/runs/${encodeURIComponent(name)}`);
      if (state.chosen !== name) return;
      state.about = about.about;
      drawHead();
      await drawDetails(about);
    } catch (error) {
      details.append(el("p", {class: "note bad"}, error.message));
    }
  }

  async function drawDetails(run) {
    const {name} = run;
    const boxes = [];
    if (run.about.plan) boxes.push(makeMemory(run.about.plan, peakOf(name)));
    if (run.about.knobs) boxes.push(el("details", {class: "card"}, el("summary", {word: "run_knobs"}),
      el("div", {class: "scroll", tabindex: "0", role: "region", label: "run_knobs"}, el("table", {class: "compact"}, el("tbody", {}, Object.entries(run.about.knobs).map(([knob, value]) =>
        el("tr", {}, el("th", {scope: "row"}, el("code", {}, knob)), el("td", {}, Array.isArray(value) ? value.join(" ") : String(value)))))))));
    if (state.allowed) boxes.push(makeLog(name));
    if (run.has_report) boxes.push(await makeReport(name).catch((error) => el("p", {class: "note bad"}, error.message)));
    if (state.chosen !== name) return;
    replace(details, boxes);
    applyWords(details);
  }

  function peakOf(name) {
    return (data.get(name)?.train ?? []).reduce((most, record) => Math.max(most, record.memory_peak ?? 0), 0);
  }

  function makeLog(name) {
    const text = el("pre", {class: "json log", tabindex: "0"});
    const box = el("details", {class: "card", id: "log"}, el("summary", {word: "run_log"}), text);
    async function load() {
      if (!box.isConnected || !box.open || !state.visible) return;
      try {
        const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
        text.textContent = (await getJson(`/v1/runs/${encodeURIComponent(name)}/log`)).text || "—";
        if (atEnd) text.scrollTop = text.scrollHeight;
      } catch {}
      setTimeout(load, LOG_EVERY);
    }
    box.addEventListener("toggle", load);
    return box;
  }

  // Reads what is new of each run that is shown.
  async function follow() {
    const names = [state.chosen, ...state.compared].filter(Boolean);
    for (const name of names) {
      try {
        await readMore(name);
      } catch {} // the list says what is wrong
    }
    draw();
  }

  async function readMore(name) {
    let run = data.get(name) ?? {train: [], eval: [], final: null, next: 0};
    for (let more = true; more;) {
      const answer = await getJson(`/v1/runs/${encodeURIComponent(name)}/metrics?after=${run.next}`);
      if (answer.from < run.next) run = {train: [], eval: [], final: null, next: 0}; // a resumed run began it anew
      for (const record of answer.records) {
        if (record.kind === "final") run.final = record;
        else run[record.kind].push(record);
      }
      more = answer.more && answer.next > run.next;
      run.next = answer.next;
    }
    data.set(name, run);
  }

  function draw() {
    const names = [state.chosen, ...state.compared].filter((name) => name && data.has(name));
    const now = JSON.stringify(names.map((name) => [name, data.get(name).next]));
    drawHead();
    if (now === state.drawn) return;
    state.drawn = now;
    if (state.about?.plan) details.querySelector("#memory-plan")?.replaceWith(makeMemory(state.about.plan, peakOf(state.chosen)));
    const several = names.length > 1;
    const curve = (kind, field, label = null) => names.map((name) => ({
      name: several ? (label ? `${name} ${word(label)}` : name) : word(label ?? `curve_${field}`), colour: colourOf(name), dashed: label === "curve_dev_loss",
      points: data.get(name)[kind].filter((record) => typeof record[field] === "number").map((record) => [record.step, record[field]]),
    }));
    const named = (kind, field, title) => curve(kind, field).map((each) => (several ? each : {...each, name: word(title)}));
    const inGigabytes = (each) => ({...each, points: each.points.map(([step, bytes]) => [step, bytes / GB])});
    const fixed = (digits) => (value) => value.toFixed(digits);
    const loss = [...curve("train", "loss", "curve_train_loss"), ...curve("eval", "dev_loss", "curve_dev_loss")];
    const focused = [...charts.querySelectorAll("svg")].indexOf(document.activeElement);
    replace(charts,
      makeChart(word("curve_loss"), loss, fixed(3)),
      makeChart(word("curve_f1"), named("eval", "triplet_f1", "curve_f1"), fixed(3)),
      makeChart(word("curve_learning_rate"), named("train", "learning_rate", "curve_learning_rate"), (value) => (value ? value.toExponential(1) : "0")),
      makeChart(word("curve_memory"), named("train", "memory_peak", "curve_memory").map(inGigabytes), (value) => `${value.toFixed(2)} GB`),
      makeChart(word("curve_speed"), named("train", "tokens_per_second", "curve_speed"), (value) => String(Math.round(value))),
      makeChart(word("curve_grad"), named("train", "grad_norm", "curve_grad"), fixed(2)));
    if (focused >= 0) charts.querySelectorAll("svg")[focused]?.focus();
  }

  function drawHead() {
    const run = state.runs.find(({name}) => name === state.chosen);
    const read = data.get(state.chosen);
    if (!run || !read) return;
    const last = read.train.at(-1);
    const evaluated = read.final ?? read.eval.at(-1);
    const total = state.about?.total_steps ?? run.total_steps;
    const seconds = run.running && total ? timeLeft(read.train, total) : null;
    const figures = [
      [total ? `${run.step} / ${total}` : String(run.step), "run_at"],
      last?.epoch !== undefined && [last.epoch.toFixed(2), "run_epoch"],
      last?.loss !== undefined && [last.loss.toFixed(4), "curve_train_loss"],
      evaluated?.dev_loss !== undefined && [evaluated.dev_loss.toFixed(4), "curve_dev_loss"],
      evaluated?.triplet_f1 !== undefined && [evaluated.triplet_f1.toFixed(3), "curve_f1"],
      last?.tokens_per_second !== undefined && [String(Math.round(last.tokens_per_second)), "run_speed"],
      last?.memory_peak !== undefined && [gigabytes(last.memory_peak), "run_memory"],
      seconds !== null && [duration(seconds), "run_left"],
    ].filter(Boolean);
    const now = `${run.name} ${run.running}`;
    const said = head.dataset.now === now ? head.querySelector(".said")?.textContent ?? "" : ""; // else it is past
    head.dataset.now = now;
    const status = run.running ? "run_running" : run.finished ? "run_finished" : "run_broken";
    const buttons = !state.allowed ? [] : run.running
      ? [el("button", {type: "button", id: "stop-training", onclick: () => act("stop", "run_stopping")}, word("run_stop"))]
      : run.finished ? [] : [el("button", {type: "button", id: "resume-training", onclick: () => act("resume", "run_resuming")}, word("run_resume"))];
    const focus = document.activeElement?.id;
    replace(head, el("div", {class: "card stack"},
      el("div", {class: "row"}, el("h2", {}, run.name), el("span", {class: `state ${status}`}, word(status)), buttons, el("span", {class: "said quiet-text", role: "status"}, said)),
      run.running && total ? el("progress", {max: String(total), value: String(run.step), "aria-label": word("run_steps", run.step, total)}) : null,
      el("div", {class: "figures"}, figures.map(([value, label]) => el("div", {class: "figure"}, el("b", {}, value), el("span", {}, word(label)))))));
    if (focus) head.querySelector(`#${CSS.escape(focus)}`)?.focus();
  }

  async function act(what, said) {
    const place = head.querySelector(".said");
    try {
      await call(`/v1/runs/${encodeURIComponent(state.chosen)}/${what}`, {method: "POST", body: {}});
      place.textContent = word(said);
    } catch (error) {
      place.textContent = error.message;
    }
    setTimeout(refresh, 1000);
  }

  create.addEventListener("click", async () => {
    const open = formPlace.hidden;
    formPlace.hidden = !open;
    create.setAttribute("aria-expanded", String(open));
    if (!open) return;
    try {
      replace(formPlace, await makeForm((name) => {
        state.compared.clear();
        const wait = () => refresh().then(() => {
          if (state.runs.some((run) => run.name === name)) choose(name, true);
          else if (state.visible) setTimeout(wait, 1000);
        });
        wait();
      }));
      formPlace.querySelector("input").focus();
    } catch (error) {
      replace(formPlace, el("p", {class: "note bad"}, error.message));
    }
  });

  onLanguage(() => {
    state.drawn = "";
    drawList();
    draw();
    const run = state.runs.find(({name}) => name === state.chosen);
    if (run && state.about) drawDetails({...run, about: state.about});
    if (!formPlace.hidden) applyWords(formPlace);
  });

  function repeat(milliseconds, action) {
    state.timers.push(setInterval(() => {
      if (!document.hidden) action();
    }, milliseconds));
  }

  return {
    shown() {
      state.visible = true;
      refresh();
      repeat(LIST_EVERY, refresh);
      repeat(METRICS_EVERY, () => {
        if (state.runs.some(({name, running}) => running && (name === state.chosen || state.compared.has(name)))) follow();
      });
    },
    hidden() {
      state.visible = false;
      state.timers.splice(0).forEach(clearInterval);
    },
  };
}

// Seconds that are left at the speed of the last records.
function timeLeft(records, total) {
  const [from, to] = [records.at(-4) ?? records[0], records.at(-1)];
  if (!to || from === to) return null;
  const recent = records.slice(records.indexOf(from) + 1);
  let seconds = 0;
  let tokens = from.tokens_seen;
  for (const record of recent) {
    if (record.tokens_per_second > 0) seconds += (record.tokens_seen - tokens) / record.tokens_per_second;
    tokens = record.tokens_seen;
  }
  return (seconds / (to.step - from.step)) * (total - to.step);
}

function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 3600)}:${String(Math.floor(whole / 60) % 60).padStart(2, "0")}:${String(whole % 60).padStart(2, "0")}`;
}
