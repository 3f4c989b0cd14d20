// Calls the service over HTTP: the key, the errors and their words. The key is kept for this tab alone.

const STORED = "fourfold.key";
const SENDABLE = /^[\w.~+/=-]+$/;

/** What the service (or the lack of it) says, for people. `code` is a slug of docs/reference.md, or "away". */
export class ServiceError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const HEADINGS = {
  away: "The service is away",
  bad_output: "The service failed",
  busy: "The service is busy",
  crashed: "The service failed",
  dimensions: "This size does not work",
  engine_timeout: "The engine does not answer",
  engine_unavailable: "The engine is starting",
  forbidden: "Not allowed",
  internal: "The service failed",
  quota: "Your key has no more room",
  rate: "Too many requests",
  restart: "The service is restarting",
  slow_consumer: "This connection is too slow",
  unauthorized: "An API key is needed",
  unknown_model: "No such model",
  unsupported_type: "This kind of file is not taken",
};

/** An error in one line. */
export function wordsOf(error) {
  if (!(error instanceof ServiceError)) return error.message;
  return `${HEADINGS[error.code] ?? "The service refuses"}: ${error.message}`;
}

export const keyStore = {
  get: () => sessionStorage.getItem(STORED),
  forget: () => sessionStorage.removeItem(STORED),
  /** Throws: Error: it cannot be a key. */
  set(key) {
    if (!SENDABLE.test(key)) throw new Error("A key has letters, digits and a few signs, and no spaces. Copy it once more.");
    sessionStorage.setItem(STORED, key);
  },
};

/** Where `path` lies: beside the page, whatever prefix a proxy has put before it. */
export function addressOf(path, scheme = location.protocol) {
  const address = new URL(path, document.baseURI);
  address.hash = "";
  address.protocol = scheme;
  return address;
}

/** One request. Throws: ServiceError: refused, or nobody answers. */
export async function call(path, { headers = {}, ...options } = {}) {
  const key = keyStore.get();
  const bearer = key ? { Authorization: `Bearer ${key}` } : {};
  let answer;
  try {
    answer = await fetch(addressOf(path), { ...options, headers: { ...headers, ...bearer }, cache: "no-store" });
  } catch {
    throw new ServiceError("away", "it does not answer. It may be restarting, or the network is down.");
  }
  if (!answer.ok) throw await errorOf(answer);
  return answer;
}

async function errorOf(answer) {
  try {
    const { code, message } = (await answer.json()).error;
    return new ServiceError(code, message);
  } catch {
    return new ServiceError("away", `something between here and the service answered ${answer.status}.`);
  }
}
