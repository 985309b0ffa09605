// A job's events as they come, over as many connections as it takes: each goes on after the last event that was read.

import { ask, pause, Refusal } from "./api.js";

const LAST_ID = "end";
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4000;
// Without a sign of life for this long the connection is taken for lost; the server sends one every 15 s.
const SILENCE_MS = 45000;
const TRIES = 12;

// Yield the events of one response as {id, data}, data the text.
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  try {
    for (;;) {
      const { value, done } = await withinSilence(reader.read());
      if (done) return;
      buffered += value;
      let end;
      while ((end = buffered.indexOf("\n\n")) >= 0) {
        const event = parse(buffered.slice(0, end));
        buffered = buffered.slice(end + 2);
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const event = { id: "", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("id: ")) event.id = line.slice(4);
    else if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}

// Make a job and return its id. It is asked for under a key, so that asking twice makes one job.
export async function makeJob(body, signal) {
  const digits = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"));
  const headers = { "Idempotency-Key": digits.join("") };
  for (let tries = 1; ; tries++) {
    try {
      return (await (await ask("v1/jobs", { method: "POST", body, headers, signal })).json()).id;
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 0 || tries === 3) throw error;
      await pause(FIRST_WAIT_MS * tries, signal);
    }
  }
}

export const cancelJob = (id) => ask(`v1/jobs/${id}/cancel`, { method: "POST", body: {} });

// Yield the bodies of a job's events up to the last; told is told when the line breaks ("cut") and holds again
// ("resumed"). Throws Refusal where the server says no, or does not come back.
export async function* follow(id, signal, told) {
  let lastId = "";
  let failures = 0;
  let isCut = false;
  for (;;) {
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const response = await ask(`v1/jobs/${id}/events`, { headers, signal });
      if (isCut) told("resumed");
      isCut = false;
      for await (const event of readEvents(response)) {
        if (event.data === "[DONE]") return;
        failures = 0;
        lastId = event.id || lastId;
        yield JSON.parse(event.data);
      }
      if (lastId === LAST_ID) return;
    } catch (error) {
      if (error.name === "AbortError" || isFinal(error)) throw error;
    }
    if (++failures > TRIES) throw new Refusal("the connection was lost and did not come back", 0, "unreachable");
    isCut = true;
    told("cut");
    await pause(Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (failures - 1)), signal);
  }
}

// A server that is away or starting may be back soon; one that says no means it.
const isFinal = (error) => error instanceof Refusal && error.status !== 0 && error.status < 500;

async function withinSilence(promise) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Refusal("the connection is silent", 0)), SILENCE_MS);
  });
  try {
    return await Promise.race([promise, silence]);
  } finally {
    clearTimeout(timer);
  }
}
