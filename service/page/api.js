// Requests to the server that this page came from, with the key that is kept for this tab.

const KEY = "specd-key";
// Whatever stands before /page in the address stands before the API, too.
const ROOT = new URL("../", import.meta.url);

export class Refusal extends Error {
  // What a server said no with; status 0 stands for one that did not answer.
  constructor(message, status, code = "", retryAfterS = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

// Return the response to a request; throws Refusal unless it is good.
export async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (key.get()) sent.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const options = { method, headers: sent, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(new URL(path, ROOT), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the server does not answer", 0, "unreachable");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const message = told.error?.message ?? `the server answered ${response.status}`;
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  throw new Refusal(message, response.status, told.error?.code ?? "", Number.isNaN(wait) ? null : wait);
}

export const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
