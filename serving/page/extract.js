// The tab for extraction.

export function mountExtract(panel) {
  panel.textContent = "";
}
