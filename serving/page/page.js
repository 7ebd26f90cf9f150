// The page: its tabs, the language, light and dark.

import {mountExtract} from "./extract.js";
import {mountRun} from "./run.js";
import {addTab, startTabs} from "./tabs.js";
import {makeSwitches, restoreTheme} from "./theme.js";
import {addWords, applyWords} from "./words.js";

addWords({
  product: ["三元组抽取", "Triplet extraction"],
  tab_extract: ["抽取", "Extract"],
  tab_run: ["训练", "Training"],
  skip: ["跳到内容", "Skip to content"],
});

restoreTheme();
document.querySelector("header").append(makeSwitches());
addTab({id: "extract", word: "tab_extract", mount: mountExtract});
addTab({id: "run", word: "tab_run", mount: mountRun});
applyWords(document);
startTabs();
