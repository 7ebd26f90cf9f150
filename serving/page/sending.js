// Many sentences through the service: a few requests at a time, each a stream of results as they come.

import {ApiError, call, readLines} from "./api.js";
import {word} from "./words.js";

const SENTENCES = 64; // of a request, if the service takes as many
const CHARACTERS = 20000;
const AT_ONCE = 2; // requests, so that the model never waits for the browser
const TRIES = 8; // of one request that is told to come again

// Cuts sentences into requests: [{start, texts}].
export function cut(texts, most) {
  const parts = [];
  let part = null;
  let characters = 0;
  texts.forEach((text, place) => {
    if (!part || part.texts.length >= most || characters + text.length > CHARACTERS) {
      part = {start: place, texts: []};
      parts.push(part);
      characters = 0;
    }
    part.texts.push(text);
    characters += text.length;
  });
  return parts;
}

// Sends all; calls onResult(place, line, seconds) for each sentence and onWait(seconds) when the service is full.
// Throws the first ApiError, or an AbortError.
export async function sendAll(texts, options, {signal, limit = SENTENCES, onResult, onWait}) {
  const parts = cut(texts, Math.max(1, Math.min(SENTENCES, limit)));
  const failure = new AbortController();
  const either = AbortSignal.any([signal, failure.signal]);
  const work = async () => {
    for (let part = parts.shift(); part; part = parts.shift()) await send(part, options, either, onResult, onWait);
  };
  const workers = Array.from({length: AT_ONCE}, () => work().catch((error) => {
    failure.abort();
    throw error;
  }));
  const ends = await Promise.allSettled(workers);
  const reasons = ends.filter((end) => end.status === "rejected").map((end) => end.reason);
  if (reasons.length) throw reasons.find((reason) => reason.name !== "AbortError") ?? reasons[0];
}

async function send({start, texts}, options, signal, onResult, onWait) {
  const begun = performance.now();
  const missing = new Set(texts.keys());
  let response;
  for (let tries = 1; ; tries += 1) {
    try {
      response = await call("/v1/extract", {
        method: "POST", signal, accept: "application/x-ndjson", body: {...options, texts, stream: true, scores: true, spans: true},
      });
      break;
    } catch (error) {
      if (!(error instanceof ApiError) || ![429, 503].includes(error.status) || tries === TRIES) throw error;
      const wait = error.retryAfter ?? 1;
      onWait(wait);
      await sleep(wait * 1000, signal);
    }
  }
  for await (const {index, ...line} of readLines(response)) {
    if (!missing.delete(index)) continue;
    onResult(start + index, line, (performance.now() - begun) / 1000);
  }
  if (missing.size) throw new ApiError(word("broken_off"));
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, {once: true});
  });
}
