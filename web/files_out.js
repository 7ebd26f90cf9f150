// Facts as files: CSV that a spreadsheet opens, JSON lines in the shape of the command's output.

// What a spreadsheet would compute instead of showing (owasp.org, "CSV Injection"; full-width signs, too); the
// same rule as export/guard.py.
const FORMULA = /^'*[=+\-@\t\r\n＝＋－＠]/;
const NUMBER = /^[+-]?\d+(\.\d+)?%?$/;

export function guarded(text) {
  return FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text;
}

function cell(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "number" ? String(value) : `"${guarded(String(value)).replaceAll('"', '""')}"`;
}

// rows of cells → CSV (RFC 4180) with the mark by which spreadsheets know UTF-8.
export function toCsv(rows) {
  return `\ufeff${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}

// The same with tabs, for the clipboard: a spreadsheet takes it as a table.
export function toTabs(rows) {
  const plain = (value) => guarded(String(value ?? "")).replace(/[\t\r\n]+/g, " ");
  return rows.map((row) => row.map(plain).join("\t")).join("\n");
}

const FLAGS = ["repaired", "truncated", "source_truncated", "error", "raw"];

// Visible entries as lines of results.
export function toLines(entries) {
  return entries.map(({item, facts}) => `${JSON.stringify(toLine(item, facts))}\n`).join("");
}

// Returns a line of results with the facts that pass the filters; expected ones that are missed are no result.
export function toLine(item, facts) {
  const found = facts.filter(({status}) => status !== "missing").map(({fact}) => withoutMatch(fact));
  const line = {...(item.id === undefined ? {} : {id: item.id}), text: item.text, triplets: found};
  for (const name of FLAGS) if (item[name]) line[name] = item[name];
  if (item.gold) line.gold = item.gold;
  return line;
}

function withoutMatch({match, ...fact}) {
  return fact;
}
