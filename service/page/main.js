// Puts the page together: the theme, the key, the playground and the live part.

import { key } from "./api.js";
import { Live } from "./live.js";
import { Panels } from "./panels.js";
import { Playground } from "./playground.js";

const THEME = "specd-theme";
const THEMES = ["system", "light", "dark"];
const EXAMPLE = "Write a Python function `last_from_9(values)` that returns the last number that is at least 9, or None.";
const byId = (id) => document.getElementById(id);

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

function startTheme() {
  let theme = localStorage.getItem(THEME);
  if (!THEMES.includes(theme)) theme = "system";
  showTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem(THEME, theme);
    showTheme(theme);
  });
}

// Return what opens the dialog for the key; used is called once there is another.
function startKey(used) {
  const dialog = byId("key-dialog");
  const open = () => {
    if (dialog.open) return;
    byId("key").value = key.get();
    dialog.showModal();
  };
  const use = (text) => {
    key.set(text);
    dialog.close();
    used();
  };
  byId("key-button").addEventListener("click", open);
  byId("key-close").addEventListener("click", () => dialog.close());
  byId("key-forget").addEventListener("click", () => use(""));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    use(byId("key").value.trim());
  });
  return open;
}

function startLive(playground, openKey) {
  const live = new Live();
  const panels = new Panels(live);
  let wasLocked = false;
  live.listen((event, error) => {
    const state = event === "told" && live.now.redis_s === null ? "no-redis" : event;
    showStatus(state, live.now);
    if (event === "told") {
      playground.offer(live.now.choices);
      panels.draw();
    }
    // Asked for once by itself; after that by its button.
    if (event === "locked" && !wasLocked) openKey();
    wasLocked = event === "locked";
    notice(state, error);
  });
  byId("pause").addEventListener("click", (event) => {
    live.isPaused = !live.isPaused;
    event.target.ariaPressed = live.isPaused;
    event.target.textContent = live.isPaused ? "Go on" : "Pause";
    if (live.isPaused) showStatus("paused", live.now);
    live.wake();
  });
  document.addEventListener("visibilitychange", () => live.wake());
  live.run();
  return live;
}

function showStatus(state, now) {
  const workers = now?.workers.length ?? 0;
  const words = {
    told: workers ? `live · ${workers} ${workers === 1 ? "worker" : "workers"}` : "no worker yet",
    away: "server away",
    locked: "API key needed",
    paused: "paused",
    "no-redis": "Redis out of reach",
  };
  const status = byId("status");
  status.dataset.state = state === "told" && !workers ? "waiting" : state;
  // A status that is read aloud once a second would be no help.
  if (status.textContent !== words[state]) status.textContent = words[state];
  if (now) byId("served").textContent = `${now.model} · ${now.choices.default_drafter} · ${now.choices.default_policy}`;
}

function notice(state, error) {
  const words = {
    locked: "This server asks for an API key; press “API key” to give one.",
    away: `The server is away (${error?.message ?? ""}). The charts go on when it is back.`,
    "no-redis": "The gateway cannot reach Redis: requests are refused until it can.",
  }[state];
  byId("notice").hidden = !words;
  if (words && byId("notice").textContent !== words) byId("notice").textContent = words;
}

startTheme();
byId("prompt").value = EXAMPLE;
let live;
const openKey = startKey(() => live.wake());
const playground = new Playground(() => openKey());
live = startLive(playground, openKey);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("key-dialog").open) playground.stop();
});
