// Calls of the service. The key is kept for this tab of the browser only, and sent to no other address.

import {addWords, word} from "./words.js";

addWords({
  no_server: ["连不上服务，请看它是否还在运行。", "The service can't be reached. Is it still running?"],
  broken_off: ["连接中断了。", "The connection broke off."],
  refused: ["服务拒绝了请求（{0}）：{1}", "The service refused the request ({0}): {1}"],
});

let key = "";
try {
  key = sessionStorage.getItem("key") ?? "";
} catch {}

export function setKey(value) {
  key = value;
  try {
    sessionStorage.setItem("key", value);
  } catch {}
}

// Why a call gave nothing: `message` is for people, `status` is that of HTTP (0: no answer at all),
// `retryAfter` the seconds to wait before another try, if the service says so.
export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// Returns the response to a call; an `AbortError` passes through.
export async function call(path, {method = "GET", body = null, signal = null, accept = "application/json"} = {}) {
  const headers = {Accept: accept};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== null) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {method, headers, signal, body: body === null ? undefined : JSON.stringify(body)});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(word("no_server"));
  }
  if (response.ok) return response;
  let message = response.statusText;
  try {
    message = (await response.json()).error?.message ?? message;
  } catch {}
  const wait = Number(response.headers.get("Retry-After"));
  throw new ApiError(word("refused", response.status, message), response.status, Number.isFinite(wait) && wait > 0 ? wait : null);
}

export async function getJson(path, signal = null) {
  return (await call(path, {signal})).json();
}

// Yields the objects of a response of JSON lines as they come.
export async function* readLines(response) {
  const decoder = new TextDecoderStream();
  const reader = response.body.pipeThrough(decoder).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.trim()) yield JSON.parse(line);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(word("broken_off"));
  } finally {
    reader.cancel().catch(() => {});
  }
  if (rest.trim()) yield JSON.parse(rest);
}
