// The form, the answer it brings, and how the answers of this visit compare.

import { Refusal } from "./api.js";
import { cancelJob, follow, makeJob } from "./stream.js";
import { AnswerView, MEANINGS, SIGNS } from "./tokens.js";

const MOST_RUNS = 6;
const byId = (id) => document.getElementById(id);
const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));

export class Playground {
  // needsKey is called when the server asks for a key.
  constructor(needsKey) {
    this.needsKey = needsKey;
    this.view = new AnswerView(byId("answer"));
    this.runs = [];
    this.numRuns = 0;
    this.aborter = null;
    this.jobId = "";
    this.names = "";
    byId("legend").replaceChildren(...Object.keys(SIGNS).map(legendItem));
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("error").querySelector("button").addEventListener("click", () => this.run());
    for (const [id, name] of [["show-colours", "no-colours"], ["show-lengths", "no-lengths"]]) {
      byId(id).addEventListener("change", (event) => byId("answer").classList.toggle(name, !event.target.checked));
    }
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
    });
    this._empty();
  }

  get isRunning() {
    return this.aborter !== null;
  }

  // Offer the names that the server knows.
  offer(choices) {
    const names = JSON.stringify(choices);
    if (names === this.names) return;
    this.names = names;
    fill(byId("drafter"), `default (${choices.default_drafter})`, choices.drafters);
    fill(byId("policy"), `default (${choices.default_policy})`, choices.policies);
    byId("temperature").placeholder = `default (${choices.sampling.temperature})`;
    byId("law").textContent =
      `Numerics ${choices.numerics}, verifier ${choices.verifier}; with a seed draws are coupled, so that the text does ` +
      "not depend on what speculates.";
  }

  body() {
    const isChat = document.querySelector("input[name=mode]:checked").value === "chat";
    const prompt = byId("prompt").value;
    const body = isChat ? { messages: [{ role: "user", content: prompt }] } : { prompt };
    const speculation = { max_drafts: number("max-drafts") };
    if (byId("drafter").value) speculation.drafter = byId("drafter").value;
    if (byId("policy").value) speculation.policy = byId("policy").value;
    return {
      ...body,
      temperature: number("temperature"),
      max_tokens: number("max-tokens"),
      ...(number("seed") === undefined ? {} : { seed: number("seed") }),
      ...(Object.values(speculation).every((value) => value === undefined) ? {} : { speculation }),
      spec_decode_metrics: "detailed",
    };
  }

  async run() {
    if (this.isRunning) return;
    const aborter = (this.aborter = new AbortController());
    this._begin();
    const body = this.body();
    const run = { label: spelt(body.speculation), startedMs: performance.now(), firstMs: null, sums: null, reason: "" };
    try {
      this.jobId = await makeJob(body, aborter.signal);
      for await (const event of follow(this.jobId, aborter.signal, (what) => this._line(what))) this._take(event, run);
      this._end(run);
    } catch (error) {
      if (error.name === "AbortError") this._say("stopped", "Stopped before the server could be asked for an end.");
      else this._fail(error);
    } finally {
      this.aborter = null;
      this.jobId = "";
      byId("answer").ariaBusy = "false";
      byId("run").disabled = false;
      byId("stop").disabled = true;
    }
  }

  // Ask for the answer's end; its last event then comes as any other's.
  async stop() {
    const aborter = this.aborter;
    if (!aborter) return;
    byId("stop").disabled = true;
    this._say("stopping", "Stopping…");
    try {
      if (this.jobId) await cancelJob(this.jobId);
      else aborter.abort();
    } catch {
      aborter.abort();
    }
  }

  _begin() {
    this.view.clear();
    this._legend();
    byId("answer").classList.remove("empty");
    byId("answer").ariaBusy = "true";
    byId("error").hidden = true;
    byId("run").disabled = true;
    byId("stop").disabled = false;
    this._say("asking", "Asking…");
  }

  _take(event, run) {
    if (event.error) throw new Refusal(event.error.message, 500, event.error.code ?? "");
    if (event.speculation) {
      run.firstMs ??= performance.now();
      run.lastMs = performance.now();
      this.view.add(event.speculation);
      this._legend();
      const { tokens, steps } = this.view.counts;
      if (byId("progress").dataset.state !== "stopping") this._say("streaming", `${tokens} tokens in ${steps} steps…`);
    }
    const choice = event.choices?.[0];
    if (choice?.finish_reason) {
      run.reason = choice.finish_reason;
      if (!event.speculation) this.view.addTail(choice.delta?.content ?? choice.text ?? "");
    }
    if (event.metrics) run.sums = event;
  }

  _end(run) {
    const { counts } = this.view;
    const seconds = ((run.lastMs ?? run.startedMs) - (run.firstMs ?? run.startedMs)) / 1000;
    const told = run.sums?.metrics.speculative_decoding;
    const differences = told ? counts.differences(run.sums.usage, told) : [];
    const check = differences.length
      ? `The server counts otherwise: ${differences.join(", ")}.`
      : "Every count is the server's own.";
    const ending = { stop: "Finished", length: "Reached max tokens", abort: "Stopped" }[run.reason] ?? "Ended";
    this._say(
      differences.length ? "differs" : "done",
      `${ending}: ${counts.tokens} tokens in ${counts.steps} steps, ${counts.draft} of ${counts.verified} verified ` +
        `drafts accepted, ${counts.drafted} drafted. ${check}`,
    );
    this.runs.unshift({
      name: ++this.numRuns,
      label: run.label,
      counts,
      text: this.view.text,
      perSecond: seconds > 0 ? (counts.tokens - 1) / seconds : null,
      firstMs: run.firstMs === null ? null : run.firstMs - run.startedMs,
    });
    this.runs.length = Math.min(this.runs.length, MOST_RUNS);
    this._table();
  }

  _fail(error) {
    const refusal = error instanceof Refusal ? error : new Refusal(`the page failed: ${error.message}`, -1);
    const box = byId("error");
    const again = box.querySelector("button");
    let said = refusal.message.replace(/[^.]$/, "$&.");
    if (refusal.status === 401) {
      said = "This server asks for an API key.";
      this.needsKey();
    } else if (refusal.status === 0) said = `The server is away: ${said} What came until then is kept.`;
    else if (refusal.retryAfterS !== null) said += ` Try again in ${refusal.retryAfterS} s.`;
    box.querySelector("span").textContent = said;
    box.dataset.status = refusal.status;
    box.hidden = false;
    again.hidden = ![0, 401, 408, 429, 500, 503].includes(refusal.status);
    again.disabled = refusal.retryAfterS !== null;
    if (again.disabled) setTimeout(() => (again.disabled = false), refusal.retryAfterS * 1000);
    this._say("failed", "");
    if (!this.view.counts.tokens) this._empty();
  }

  _line(what) {
    this._say(what, what === "cut" ? "The line was cut; going on where it broke…" : "Resumed, nothing lost.");
  }

  _say(state, text) {
    const progress = byId("progress");
    progress.dataset.state = state;
    progress.textContent = text;
  }

  _legend() {
    for (const sign of Object.keys(SIGNS)) {
      byId("legend").querySelector(`[data-sign=${sign}] output`).textContent = this.view.counts[sign];
    }
  }

  _empty() {
    const hint = document.createElement("p");
    hint.textContent = "The answer appears here, token by token, each marked by where it came from; under each step: " +
      "drafted · verified · accepted.";
    byId("answer").replaceChildren(hint);
    byId("answer").classList.add("empty");
  }

  _table() {
    byId("runs").hidden = false;
    const rows = this.runs.map((run) => {
      const twin = this.runs.findLast((other) => other.text === run.text && other.name < run.name);
      const { counts } = run;
      return row([
        run.name,
        run.label,
        counts.tokens,
        counts.steps,
        counts.steps ? (counts.tokens / counts.steps).toFixed(2) : "–",
        run.perSecond === null ? "–" : run.perSecond.toFixed(0),
        run.firstMs === null ? "–" : `${run.firstMs.toFixed(0)} ms`,
        twin ? `same as ${twin.name}` : "new",
      ]);
    });
    byId("runs").querySelector("tbody").replaceChildren(...rows);
  }
}

function row(cells) {
  const line = document.createElement("tr");
  line.append(
    ...cells.map((cell) => {
      const field = document.createElement("td");
      field.textContent = cell;
      return field;
    }),
  );
  return line;
}

function spelt(speculation) {
  if (!speculation) return "default";
  const { drafter, policy, max_drafts: most } = speculation;
  return [drafter, policy, most === undefined ? "" : `at most ${most}`].filter(Boolean).join(" · ");
}

function fill(select, first, names) {
  const before = select.value;
  select.replaceChildren(new Option(first, ""), ...names.map((name) => new Option(name, name)));
  select.value = names.includes(before) ? before : "";
}

function legendItem(sign) {
  const item = document.createElement("li");
  item.dataset.sign = sign;
  item.title = MEANINGS[sign];
  const sample = document.createElement("span");
  sample.className = `token ${sign}`;
  sample.textContent = SIGNS[sign];
  const count = document.createElement("output");
  count.textContent = "0";
  item.append(sample, count);
  return item;
}
