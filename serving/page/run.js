// The tab for a run.

export function mountRun(panel) {
  panel.textContent = "";
}
