// The state of the service over time: asked for once a second, kept as rates over the times that workers told.

import { ask, Refusal } from "./api.js";

const POLL_MS = 1000;
const LONGEST_WAIT_MS = 15000;
const KEPT_S = 180;
const KEPT_STEPS = 600;
// Two answers tell the same news if they differ by less: ages are told in milliseconds.
const SAME_S = 0.05;
const SUMS = ["rounds", "drafted", "verified", "accepted"];

const groupName = (group) => `${group.drafter} · ${group.policy}`;
const plus = (one, other) =>
  Array.from({ length: Math.max(one.length, other.length) }, (_, index) => (one[index] ?? 0) + (other[index] ?? 0));

export class Live {
  constructor() {
    this.now = null;
    this.samples = [];
    this.steps = [];
    this.workers = new Map();
    this.isPaused = false;
    this.listeners = [];
    this._wake = () => {};
  }

  // Call listener(event) with "told" for news, "away" while there are none, and "locked" when a key is needed.
  listen(listener) {
    this.listeners.push(listener);
  }

  // Ask at once.
  wake() {
    this._wake();
  }

  async run() {
    let failures = 0;
    for (;;) {
      if (!document.hidden && !this.isPaused) failures = (await this._ask()) ? 0 : failures + 1;
      await this._rest(Math.min(LONGEST_WAIT_MS, POLL_MS * 2 ** Math.min(failures, 6)));
    }
  }

  async _ask() {
    try {
      const told = await (await ask("specd/live", { signal: AbortSignal.timeout(10000) })).json();
      this._take(told);
      this._tell("told");
      return true;
    } catch (error) {
      const isLocked = error instanceof Refusal && error.status === 401;
      this._tell(isLocked ? "locked" : "away", error);
      return false;
    }
  }

  _rest(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this._wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  _tell(event, error) {
    for (const listener of this.listeners) listener(event, error);
  }

  _take(told) {
    this.now = told;
    const sample = {
      atS: told.now_s,
      running: sum(told.workers, (worker) => worker.engine.running),
      jobs: told.jobs,
      groups: {},
      tokens: 0,
      hasNews: false,
    };
    sample.waiting = Math.max(0, (told.jobs ?? 0) - sample.running);
    const names = new Set(told.workers.map((worker) => worker.name));
    for (const name of this.workers.keys()) if (!names.has(name)) this.workers.delete(name);
    for (const worker of told.workers) this._takeWorker(worker, sample);
    sample.throughput = [...this.workers.values()].reduce((total, one) => total + one.perS, 0);
    const speeds = [...this.workers.values()].filter((one) => one.perUser > 0);
    const weight = sum(speeds, (one) => one.perS);
    sample.perUser = weight ? sum(speeds, (one) => one.perUser * one.perS) / weight : null;
    if (sample.hasNews || !this.samples.length) this.samples.push(sample);
    while (this.samples[0].atS < told.now_s - KEPT_S) this.samples.shift();
  }

  _takeWorker(worker, sample) {
    const known = this.workers.get(worker.name) ?? { perS: 0, perUser: 0, lastStep: -1 };
    const before = known.worker;
    this.workers.set(worker.name, known);
    if (before && Math.abs(worker.told_s - before.told_s) < SAME_S) return;
    known.worker = worker;
    sample.hasNews = true;
    const fresh = this._takeSteps(worker, known);
    // One that began anew counts from zero again.
    if (!before || worker.engine.steps < before.engine.steps) return;
    const seconds = worker.told_s - before.told_s;
    const tokens = worker.engine.emitted - before.engine.emitted;
    known.perS = tokens / seconds;
    known.stepsPerS = (worker.engine.steps - before.engine.steps) / seconds;
    sample.tokens += tokens;
    const userS = sum(fresh, (step) => step.sampling * step.step_s);
    // Plain decoding tells no steps: then what ran shares the throughput.
    if (!tokens) known.perUser = 0;
    else if (userS) known.perUser = sum(fresh, (step) => step.tokens) / userS;
    else known.perUser = known.perS / Math.max(1, worker.engine.running, before.engine.running);
    for (const group of worker.engine.groups) this._takeGroup(group, before.engine.groups, sample);
  }

  _takeSteps(worker, known) {
    const steps = worker.engine.recent_steps;
    if (steps.length && steps.at(-1).step < known.lastStep) known.lastStep = -1;
    const fresh = steps.filter((step) => step.step > known.lastStep);
    if (fresh.length) known.lastStep = fresh.at(-1).step;
    this.steps.push(...fresh);
    this.steps.splice(0, Math.max(0, this.steps.length - KEPT_STEPS));
    return fresh;
  }

  _takeGroup(group, groupsBefore, sample) {
    const name = groupName(group);
    const zero = { rounds: 0, drafted: 0, verified: 0, accepted: 0, verified_at: [], accepted_at: [] };
    const before = groupsBefore.find((other) => groupName(other) === name) ?? zero;
    const sums = (sample.groups[name] ??= structuredClone(zero));
    for (const field of SUMS) sums[field] += group[field] - before[field];
    for (const field of ["verified_at", "accepted_at"]) {
      const fresh = group[field].map((count, place) => count - (before[field][place] ?? 0));
      sums[field] = plus(sums[field], fresh);
    }
  }

  // Return the names of what has speculated since the workers started.
  groupNames() {
    const groups = (this.now?.workers ?? []).flatMap((worker) => worker.engine.groups);
    return [...new Set(groups.map(groupName))].sort();
  }

  // Return the sums of a group ("" for all) over the samples of the last seconds; all that workers counted if none.
  sums(name, seconds) {
    const total = { rounds: 0, drafted: 0, verified: 0, accepted: 0, verified_at: [], accepted_at: [], isRecent: true };
    const since = (this.samples.at(-1)?.atS ?? 0) - seconds;
    for (const sample of this.samples.filter((one) => one.atS >= since)) addGroups(total, sample.groups, name);
    if (total.rounds) return total;
    for (const { engine } of this.now?.workers ?? []) {
      addGroups(total, Object.fromEntries(engine.groups.map((group) => [groupName(group), group])), name);
    }
    return { ...total, isRecent: false };
  }
}

export function addGroups(total, groups, name) {
  for (const [group, sums] of Object.entries(groups)) {
    if (name && group !== name) continue;
    for (const field of SUMS) total[field] += sums[field];
    for (const field of ["verified_at", "accepted_at"]) total[field] = plus(total[field], sums[field]);
  }
  return total;
}

export const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);
export { groupName };
