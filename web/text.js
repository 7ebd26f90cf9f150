// Positions in texts. Spans count code points, as Python does; the browser counts UTF-16 units: "😀" is one
// there and two here.

// Returns a function from a position in code points to one in UTF-16 units; past the end it gives null.
export function unitsOf(text) {
  const points = [...text];
  if (points.length === text.length) return (point) => (point >= 0 && point <= text.length ? point : null);
  const starts = [0];
  for (const point of points) starts.push(starts[starts.length - 1] + point.length);
  return (point) => starts[point] ?? null;
}

// Returns the span of `text` in UTF-16 units that a span in code points means, if it is one of the text.
export function toUnits(units, span) {
  if (!Array.isArray(span)) return null;
  const start = units(span[0]);
  const end = units(span[1]);
  return start === null || end === null || start >= end ? null : [start, end];
}

// Returns where a value stands in a text, [start, end) in UTF-16 units: the place nearest to `near`.
export function findValue(text, value, near = 0) {
  if (!value) return null;
  let best = null;
  for (let start = text.indexOf(value); start >= 0; start = text.indexOf(value, start + 1))
    if (best === null || Math.abs(start - near) < Math.abs(best - near)) best = start;
  return best === null ? null : [best, best + value.length];
}

// Text as it is compared in a search: case and width of letters don't matter.
export function folded(text) {
  return text.normalize("NFKC").toLowerCase();
}

// Cuts a text to so many code points.
export function shortened(text, length) {
  const points = [...text];
  return points.length <= length ? text : points.slice(0, length - 1).join("") + "…";
}
