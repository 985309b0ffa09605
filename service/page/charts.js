// What each chart shows. A chart is told the live state and returns its plot, or none and the words that say why.

import { addGroups, sum } from "./live.js";
import { Plot, short, ticks } from "./svg.js";

const WINDOW_S = 120;
const RECENT_S = 60;
const EMPTY_SUMS = { rounds: 0, drafted: 0, verified: 0, accepted: 0, verified_at: [], accepted_at: [] };

const ages = { xs: [-WINDOW_S, -90, -60, -30, 0], xName: "seconds ago", xLabel: (value) => (value ? `${-value}` : "now") };
const ms = (seconds) => `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const nothing = (words) => ({ plot: null, caption: words, points: 0 });

function recent(live) {
  const now = live.samples.at(-1)?.atS ?? 0;
  return live.samples.filter((one) => one.atS >= now - WINDOW_S).map((one) => ({ ...one, age: one.atS - now }));
}

const most = (values, least) => Math.max(least, ...values.filter((value) => Number.isFinite(value)));

function throughput(live) {
  const points = recent(live).map((one) => [one.age, one.throughput]);
  if (points.length < 2) return nothing("Waiting for two reports of a worker.");
  const plot = new Plot({ ...ages, ys: ticks(most(points.map(([, y]) => y), 10)), yName: "tokens/s" });
  plot.area(points, "main");
  plot.line(points, "main");
  const peak = most(points.map(([, y]) => y), 0);
  return { plot, points: points.length, caption: `Now ${short(points.at(-1)[1])} tokens/s, at most ${short(peak)}.` };
}

function tradeOff(live) {
  const points = live.samples.filter((one) => one.perUser && one.throughput > 0);
  if (!points.length) return nothing("No tokens yet: run something.");
  const plot = new Plot({
    xs: ticks(most(points.map((one) => one.perUser), 10)),
    ys: ticks(most(points.map((one) => one.throughput), 10)),
    xName: "tokens/s for each user",
    yName: "tokens/s of all",
  });
  const last = points.at(-1);
  points.forEach((one, index) => {
    const title = `${one.running} running: ${short(one.perUser)} tokens/s each, ${short(one.throughput)} of all`;
    plot.dot(one.perUser, one.throughput, one === last ? "now" : "main", {
      r: one === last ? 5.5 : 3,
      opacity: 0.25 + (0.75 * (index + 1)) / points.length,
      title,
    });
  });
  const caption = `Ringed: the latest, ${last.running} running, ${short(last.perUser)} tokens/s each.`;
  return { plot, points: points.length, caption };
}

function lengthsOverTime(live, group) {
  const samples = recent(live);
  const perRound = samples.map((one) => {
    const sums = addGroups({ ...EMPTY_SUMS }, one.groups, group);
    const mean = (value) => (sums.rounds ? value / sums.rounds : null);
    return { age: one.age, drafted: mean(sums.drafted), verified: mean(sums.verified), accepted: mean(sums.accepted) };
  });
  if (!perRound.some((one) => one.drafted !== null)) return nothing("No step in the last two minutes.");
  const plot = new Plot({ ...ages, ys: ticks(most(perRound.map((one) => one.drafted), 1)), yName: "drafts of a step" });
  for (const kind of ["drafted", "verified", "accepted"]) plot.line(perRound.map((one) => [one.age, one[kind]]), kind);
  const last = perRound.findLast((one) => one.drafted !== null);
  const caption = `Last: ${short(last.drafted)} drafted, ${short(last.verified)} verified, ${short(last.accepted)} accepted.`;
  return { plot, points: perRound.length, caption, keys: { drafted: "drafted", verified: "verified", accepted: "accepted" } };
}

function byPosition(live, group) {
  const sums = live.sums(group, RECENT_S);
  const positions = sums.verified_at.length;
  if (!positions || !sums.rounds) return nothing("No draft was verified yet.");
  const plot = new Plot({
    xs: Array.from({ length: positions + 2 }, (_, index) => index),
    ys: [0, 0.25, 0.5, 0.75, 1],
    xName: "position in the draft",
    yName: "share of steps",
    xLabel: (value) => (value && value <= positions ? `${value}` : ""),
    yLabel: percent,
  });
  const width = Math.min(26, 180 / positions);
  sums.verified_at.forEach((verified, place) => {
    const accepted = sums.accepted_at[place] ?? 0;
    const title = `Position ${place + 1}: verified in ${verified} of ${sums.rounds} steps, accepted in ${accepted}`;
    plot.bar(place + 1, width, verified / sums.rounds, "verified", title);
    plot.bar(place + 1, width - 6, accepted / sums.rounds, "accepted", title);
  });
  const caption =
    `${sums.isRecent ? "The last minute" : "Since the workers started"}: ${percent(sums.accepted / Math.max(1, sums.verified))} ` +
    `of ${sums.verified} verified drafts accepted, ${short(sums.accepted / sums.rounds + 1)} tokens a step.`;
  return { plot, points: sums.rounds, caption, keys: { verified: "verified", accepted: "accepted" } };
}

function stepCost(live, group) {
  const steps = live.steps.filter((one) => one.predicted_step_s !== null && (!group || name(one) === group));
  if (!steps.length) return nothing("No policy has predicted a step yet: load_adaptive, goodput, greedy and slo do.");
  // One stall of the machine must not squeeze all other steps into a corner.
  const sorted = steps.map((one) => Math.max(one.step_s, one.predicted_step_s)).sort((one, other) => one - other);
  const top = sorted[Math.floor(0.98 * (sorted.length - 1))] * 1000 * 1.1;
  const scale = ticks(top);
  const plot = new Plot({ xs: scale, ys: scale, xName: "predicted ms", yName: "measured ms" });
  plot.line([[0, 0], [scale.at(-1), scale.at(-1)]], "ideal");
  const shown = steps.filter((one) => Math.max(one.step_s, one.predicted_step_s) * 1000 <= scale.at(-1));
  for (const one of shown) {
    const title = `${one.sequences} sequences, ${one.rows} rows: ${ms(one.predicted_step_s)} predicted, ${ms(one.step_s)} measured`;
    plot.dot(one.predicted_step_s * 1000, one.step_s * 1000, "main", { r: 2.5, opacity: 0.55, title });
  }
  const ratios = steps.map((one) => one.step_s / one.predicted_step_s).sort((one, other) => one - other);
  const caption = `Median measured / predicted ${ratios[ratios.length >> 1].toFixed(2)} over ${steps.length} steps.` +
    (shown.length < steps.length ? ` ${steps.length - shown.length} slower ones are off the scale.` : "");
  return { plot, points: steps.length, caption };
}

function calibration(live, group) {
  const found = (live.now?.workers ?? [])
    .flatMap((worker) => worker.engine.calibrations)
    .filter((one) => one.report.rounds && (!group || name(one) === group));
  if (!found.length) return nothing("Needs 64 steps that were verified in full.");
  const plot = new Plot({
    xs: [0, 0.25, 0.5, 0.75, 1],
    ys: [0, 0.25, 0.5, 0.75, 1],
    xName: "survival that was predicted",
    yName: "share accepted",
    xLabel: percent,
    yLabel: percent,
  });
  plot.line([[0, 0], [1, 1]], "ideal");
  const bins = found.flatMap((one) => one.report.bins);
  const all = sum(bins, ([, , count]) => count);
  for (const { report } of found) if (found.length === 1) plot.line(report.bins, "main");
  for (const [predicted, observed, count] of bins) {
    const title = `${percent(predicted)} predicted, ${percent(observed)} of ${count} accepted`;
    plot.dot(predicted, observed, "main", { r: 2.5 + 9 * Math.sqrt(count / all), opacity: 0.7, title });
  }
  const { report } = found.reduce((one, other) => (other.report.rounds > one.report.rounds ? other : one));
  const caption =
    `Promised ${short(report.predicted_length)} tokens a step, got ${short(report.observed_length)}; error ` +
    `${percent(report.ece[0])} at the first position, Brier ${report.brier[0].toFixed(2)}, over ${report.rounds} steps.`;
  return { plot, points: bins.length, caption };
}

function queue(live) {
  const samples = recent(live);
  if (samples.length < 2) return nothing("Waiting for two reports of a worker.");
  const high = most(samples.flatMap((one) => [one.running, one.waiting]), 4);
  const plot = new Plot({ ...ages, ys: ticks(high), yName: "requests" });
  plot.area(samples.map((one) => [one.age, one.waiting]), "waiting");
  plot.line(samples.map((one) => [one.age, one.waiting]), "waiting");
  plot.line(samples.map((one) => [one.age, one.running]), "main");
  const last = samples.at(-1);
  const oldest = Math.max(0, ...live.now.waiting.map((one) => one.oldest_s));
  const caption = `${last.running} running, ${last.waiting} waiting${oldest ? `, the oldest for ${oldest.toFixed(1)} s` : ""}.`;
  return { plot, points: samples.length, caption, keys: { main: "running", waiting: "waiting" } };
}

const name = (one) => `${one.drafter} · ${one.policy}`;

// The charts in their order: a key, a title, what draws it.
export const CHARTS = [
  ["throughput", "Throughput", throughput],
  ["trade-off", "Throughput against per-user speed", tradeOff],
  ["lengths", "Draft, verify and accepted length", lengthsOverTime],
  ["positions", "Verification and acceptance by position", byPosition],
  ["cost", "Step time, predicted and measured", stepCost],
  ["calibration", "Calibration of survival", calibration],
  ["queue", "Queue", queue],
];
