// What is better read than drawn: the figures of now, the workers, and the arms with their intervals.

import { node } from "./svg.js";
import { sum } from "./live.js";

const percent = (share) => `${(100 * share).toFixed(0)} %`;

function tile(term, value, unit, help) {
  const box = document.createElement("div");
  box.title = help;
  const [dt, dd, small] = ["dt", "dd", "small"].map((tag) => document.createElement(tag));
  dt.textContent = term;
  dd.textContent = value;
  small.textContent = ` ${unit}`;
  dd.append(small);
  box.append(dt, dd);
  return box;
}

// Draw the figures of now.
export function drawTiles(element, live) {
  const sample = live.samples.at(-1);
  const sums = live.sums("", 60);
  const engines = (live.now?.workers ?? []).map((worker) => worker.engine);
  const groups = engines.flatMap((engine) => engine.groups).filter((group) => group.benefit !== null);
  const benefit = groups.length ? sum(groups, (one) => one.plain_s) / Math.max(1e-9, sum(groups, (one) => one.spent_s)) : null;
  const show = (value, digits = 0) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  element.replaceChildren(
    tile("Throughput", show(sample?.throughput), "tokens/s", "of all workers together"),
    tile("Per user", show(sample?.perUser), "tokens/s", "of one sequence, in the steps that were told last"),
    tile("Tokens a step", sums.rounds ? show(sums.accepted / sums.rounds + 1, 2) : "–", "", "accepted length, bonus included"),
    tile("Accepted", sums.verified ? percent(sums.accepted / sums.verified) : "–", "of verified", "drafts accepted of those verified"),
    tile("Benefit", benefit ? show(benefit, 2) : "–", "× plain", "tokens per second over those of plain steps, by the cost table"),
    tile("Running", show(sample?.running), "requests", "sequences in the batches"),
    tile("Waiting", show(sample?.waiting), "requests", "jobs that nobody works on yet"),
    tile("KV in use", engines.length ? percent(Math.max(...engines.map((one) => one.kv_usage))) : "–", "", "of the fullest worker's blocks"),
  );
}

function table(heads, rows) {
  const made = document.createElement("table");
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    row.append(
      ...cells.map((cell) => {
        const field = document.createElement(tag);
        if (tag === "th") field.scope = "col";
        field.append(cell);
        return field;
      }),
    );
    return row;
  };
  made.createTHead().append(line(heads, "th"));
  made.createTBody().append(...rows.map((cells) => line(cells, "td")));
  return made;
}

// Return a table of the workers and what to say of it.
export function workersTable(live) {
  const workers = live.now?.workers ?? [];
  if (!workers.length) return { made: null, points: 0, caption: "No worker serves this model." };
  const rows = workers.map(({ name, engine, silent_s: silent }) => {
    const fallbacks = sum(Object.values(engine.fallbacks), (count) => count);
    const perS = live.workers.get(name)?.stepsPerS;
    return [
      name.split("-").at(-1),
      perS === undefined ? "–" : perS.toFixed(0),
      `${engine.running}`,
      percent(engine.kv_usage),
      engine.prefix_queries ? percent(engine.prefix_hits / engine.prefix_queries) : "–",
      `${engine.preemptions} / ${fallbacks}`,
      `${silent.toFixed(1)} s`,
    ];
  });
  const heads = ["Worker", "Steps/s", "Running", "KV", "Prefix hits", "Preempted / fell back", "Heard"];
  const rtt = live.now.redis_s === null ? "" : ` Redis answers in ${(1000 * live.now.redis_s).toFixed(1)} ms.`;
  const caption = `${workers.length} ${workers.length === 1 ? "worker" : "workers"}.${rtt}`;
  return { made: table(heads, rows), points: workers.length, caption };
}

// Return the arms, their means with 95 % limits drawn, and what to say of them.
export function armsTable(live) {
  const arms = (live.now?.arms ?? []).filter((one) => one.token_s);
  if (!arms.length) return { made: null, points: 0, caption: "No answer over /v1/completions or /v1/chat/completions yet." };
  const most = Math.max(...arms.map((one) => one.token_s.high ?? one.token_s.estimate)) * 1.05;
  const rows = arms.map((one) => [
    one.arm || "none",
    `${one.drafter} · ${one.policy}`,
    `${one.answers}`,
    one.verified ? percent(one.accepted / one.verified) : "–",
    ms(one.token_s),
    whisker(one.token_s, most),
    one.first_s ? ms(one.first_s) : "–",
  ]);
  const heads = ["Arm", "Speculation", "Answers", "Accepted", "ms a token", `0 to ${(1000 * most).toFixed(1)} ms`, "ms to first"];
  const caption =
    "Means over answers of this gateway, with normal 95 % limits. Arms share batches and slow each other: what clients saw, no verdict.";
  return { made: table(heads, rows), points: arms.length, caption };
}

function ms({ estimate, low, high }) {
  const spread = low === null ? "" : ` ± ${(500 * (high - low)).toFixed(1)}`;
  return `${(1000 * estimate).toFixed(1)}${spread}`;
}

function whisker({ estimate, low, high }, most) {
  const x = (value) => (2 + (96 * Math.max(0, value)) / most).toFixed(1);
  const svg = node("svg", { viewBox: "0 0 100 16", class: "whisker", "aria-hidden": "true" });
  svg.append(node("line", { class: "grid", x1: 2, x2: 98, y1: 8, y2: 8 }));
  if (low !== null) {
    svg.append(node("line", { class: "limits", x1: x(low), x2: x(high), y1: 8, y2: 8 }));
    for (const end of [low, high]) svg.append(node("line", { class: "limits", x1: x(end), x2: x(end), y1: 4, y2: 12 }));
  }
  svg.append(node("circle", { class: "dot main", cx: x(estimate), cy: 8, r: 3 }));
  return svg;
}
