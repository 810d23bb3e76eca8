// The server, asked by the routes that everybody uses.
// Knows: the key (kept for this tab only), errors in the server's own words. Refuses to know: what is shown.

const KEY = "secondpass-key";
let askForKey = async () => null;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function onKeyNeeded(ask) {
  askForKey = ask;
}

export function keep(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

async function sent(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
}

// the answer; where a key is needed it is asked for until one is known, and the request is made once more
export async function answered(path, body, signal) {
  let response = await sent(path, body, signal);
  while (response.status === 401 && (await askForKey())) response = await sent(path, body, signal);
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).message || message;
  } catch {
    // no JSON: the status has to do
  }
  throw new Refused(response.status, message);
}

export async function ask(path, body, signal) {
  return (await answered(path, body, signal)).json();
}
