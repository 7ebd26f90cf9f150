// Files that are dropped on the page: text with a sentence a line, JSON lines, a JSON array, CSV, TSV; results
// of an extraction are shown as they are. Read in the browser; nothing but sentences is sent to the service.

import {addWords, word} from "./words.js";

addWords({
  file_empty: ["文件是空的。", "The file is empty."],
  file_binary: ["这不是文本文件；能读的是 txt、JSONL、JSON、CSV、TSV。", "This is no text file; txt, JSONL, JSON, CSV and TSV can be read."],
  file_no_field: ["找不到句子所在的字段；要有 {0} 之一，现有 {1}。", "No field with the sentence was found: one of {0} is needed, these are there: {1}."],
  file_large: ["文件太大（上限 {0} MB），请用命令行 inference_triplet.py --input 处理。", "The file is too large (limit {0} MB); use inference_triplet.py --input instead."],
});

const FIELDS = ["text", "sentence", "content", "句子", "文本", "正文", "内容", "原文"];
const MOST_BYTES = 50 << 20;
const PROMPT = /^Instruction: [\s\S]*?\nInput: [\s\S]*?\n\n([\s\S]*)\nAnswer: ?$/; // of training lines

// Returns {texts} or {results: [line]}, with `skipped`: lines that can't be used. Throws an Error that says why.
export async function readFile(file) {
  if (file.size > MOST_BYTES) throw new Error(word("file_large", MOST_BYTES >> 20));
  return readText(decode(await file.arrayBuffer()), file.name);
}

function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  const wide = bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le" : bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : null;
  if (!wide && bytes.subarray(0, 4096).includes(0)) throw new Error(word("file_binary"));
  if (wide) return new TextDecoder(wide).decode(buffer);
  try {
    return new TextDecoder("utf-8", {fatal: true}).decode(buffer);
  } catch {
    return new TextDecoder("gb18030").decode(buffer);
  }
}

export function readText(content, name) {
  const text = content.replace(/^\ufeff/, "");
  const start = text.trimStart();
  if (!start) throw new Error(word("file_empty"));
  if (/\.(csv|tsv)$/i.test(name)) return fromTable(text, /tsv$/i.test(name) ? "\t" : ",");
  if (start.startsWith("[")) {
    try {
      return fromObjects(JSON.parse(text), 0);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  const lines = text.split(/\r\n|\n|\r/).filter((line) => line.trim());
  if (!start.startsWith("{")) return {texts: lines.map((line) => line.trim()), skipped: 0};
  const objects = [];
  let skipped = 0;
  for (const line of lines) {
    try {
      objects.push(JSON.parse(line));
    } catch {
      skipped += 1;
    }
  }
  return fromObjects(objects, skipped);
}

function fromObjects(objects, skipped) {
  const results = objects.filter((each) => Array.isArray(each?.triplets) && typeof each.text === "string");
  if (results.length && results.length === objects.length) return {results: results.map(withoutBroken), skipped};
  const texts = objects.map(sentenceOf);
  const good = texts.filter((each) => each !== null && each.trim());
  if (!good.length) {
    const names = [...new Set(objects.slice(0, 20).flatMap((each) => Object.keys(each ?? {})))].slice(0, 12);
    throw new Error(word("file_no_field", FIELDS.join("、"), names.join("、")));
  }
  return {texts: good, skipped: skipped + texts.length - good.length};
}

function sentenceOf(each) {
  if (typeof each === "string") return each;
  if (typeof each?.context === "string" && typeof each.text !== "string") return PROMPT.exec(each.context)?.[1] ?? each.context;
  for (const name of FIELDS) if (typeof each?.[name] === "string") return each[name];
  return null;
}

const NAMES = ["subject", "predicate", "object"];

// A line of results from anywhere: triplets that are none are left out, types that are missing are named.
function withoutBroken(line) {
  const triplets = line.triplets
    .filter((each) => NAMES.every((name) => typeof each?.[name] === "string"))
    .map((each) => ({...each,
      subject_type: String(each.subject_type || "实体"), object_type: String(each.object_type || "实体"),
      score: typeof each.score === "number" ? each.score : undefined}));
  return {...line, gold: undefined, triplets};
}

function fromTable(text, separator) {
  const [head, ...rows] = parseTable(text, separator);
  const names = head.map((name) => name.trim());
  const column = FIELDS.map((name) => names.indexOf(name)).find((place) => place >= 0) ?? (names.length === 1 ? 0 : -1);
  if (column < 0) throw new Error(word("file_no_field", FIELDS.join("、"), names.join("、")));
  const texts = rows.map((row) => row[column]?.trim()).filter(Boolean);
  // Tables of labels name a sentence once for each of its triplets.
  return {texts: [...new Set(texts)], skipped: rows.length - texts.length};
}

// CSV (RFC 4180) → rows of cells.
export function parseTable(text, separator) {
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  for (let place = 0; place < text.length; place += 1) {
    const sign = text[place];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[place + 1] === '"') {
        cell += '"';
        place += 1;
      } else quoted = false;
    } else if (sign === '"' && cell === "") quoted = true;
    else if (sign === separator) {
      row.push(cell);
      cell = "";
    } else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && text[place + 1] === "\n") place += 1;
      rows.push([...row, cell]);
      row = [];
      cell = "";
    } else cell += sign;
  }
  if (cell || row.length) rows.push([...row, cell]);
  return rows.filter((each) => each.some((value) => value.trim()));
}
