/** Requests to a server: what each carries, what a failure of one means, and when trying again is safe. */

import { BandSoxError, HostError, InvalidRequest, OutcomeUnknown, describedError } from "./errors.js";
import { LINES, linesOf } from "./lines.js";
import { type Answer, type Request as Wanted, type Route, type Verb } from "./schema.js";
import { type BandSoxConfig, type CallOptions, type LongCallOptions, type Progress, type WatchedCallOptions } from "./types.js";

/** What is sent besides what the document calls JSON. */
interface Extras extends CallOptions {
  /** A body that is no JSON. */
  content?: BodyInit | undefined;
  headers?: Record<string, string> | undefined;
  /** Whether the server may take as long as it likes. */
  patient?: boolean | undefined;
}

type Query = Record<string, string | number | boolean | null | undefined>;

interface Parts {
  path?: Record<string, string>;
  query?: Query;
  body?: unknown;
}

/** An answer whose body is read by somebody. */
export interface Opened {
  answer: Response;
  /** To be called when the body was read, or will not be. */
  release: () => void;
}

/** A request, ready to be sent. */
interface Prepared {
  verb: Verb;
  url: URL;
  init: RequestInit & { duplex?: "half" };
  /** Milliseconds until the answer has to be there. */
  timeout: number | undefined;
  signal: AbortSignal | undefined;
  /** Whether sending it twice does no more than sending it once, and it can be sent twice. */
  repeatable: boolean;
}

/** Reads an answer. `hold` keeps the signal's hand on it, until what it returns is called. */
type Reader<T> = (answer: Response, hold: () => () => void) => Promise<T>;

const DEFAULT_TIMEOUT_MS = 60_000;
const DEFAULT_RETRIES = 2;
const FIRST_PAUSE_MS = 100;

/** What the platforms call a connection that did not come about, so that nothing was sent. */
const NEVER_CONNECTED = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
  "ConnectionRefused",
  "FailedToOpenSocket",
]);

/** A way to one server. */
export class Connection {
  readonly base: URL;
  readonly WebSocket: BandSoxConfig["WebSocket"];
  readonly #fetch: typeof fetch;
  /** What every request carries. */
  readonly headers: Headers;
  /** Milliseconds that a server may take. */
  readonly timeout: number;
  /** How often what has no effects is tried again. */
  readonly retries: number;

  constructor(config: BandSoxConfig) {
    this.base = baseOf(config.baseUrl);
    this.WebSocket = config.WebSocket;
    this.#fetch = config.fetch ?? ((...given) => fetch(...given));
    this.headers = new Headers(config.headers);
    this.timeout = config.timeout ?? DEFAULT_TIMEOUT_MS;
    this.retries = config.retries ?? DEFAULT_RETRIES;
  }

  /** What opens this server's doors, without the word `Bearer`; undefined where callers need nothing or have a cookie. */
  get token(): string | undefined {
    return /^bearer +(.+)$/i.exec(this.headers.get("authorization") ?? "")?.[1];
  }

  set token(token: string | undefined) {
    if (token === undefined) this.headers.delete("authorization");
    else this.headers.set("authorization", `Bearer ${token}`);
  }

  /**
   * Send a request, and return what it is answered.
   *
   * @throws BandSoxError: what the server says; `server_unavailable` where it was not reached; OutcomeUnknown where the connection was lost
   * after something was sent that has effects. The reason of the signal, when it is aborted.
   */
  async call<V extends Verb, R extends Route<V>>(verb: V, route: R, wanted: Wanted<V, R>, extras: Extras = {}): Promise<Answer<V, R>> {
    return this.#attempts(this.#prepared(verb, route, wanted as Parts, extras), async (answer) => (await answer.json()) as Answer<V, R>);
  }

  /**
   * Send a request that makes something, which may take long, and return what it is answered. It carries a key, under which the server does it
   * once however often it is sent: so it is sent again when the connection is lost. Throws as `call`.
   */
  async make<R extends Route<"post">>(
    route: R,
    wanted: Wanted<"post", R>,
    call: LongCallOptions = {},
    content?: BodyInit,
  ): Promise<Answer<"post", R>> {
    const key = call.idempotencyKey === null ? null : (call.idempotencyKey ?? (await newKey()));
    const headers = { accept: LINES, ...(key === null ? {} : { "idempotency-key": key }) };
    const request = this.#prepared("post", route, wanted as Parts, { ...call, content, headers, patient: true });
    return this.#attempts({ ...request, repeatable: key !== null }, async (answer) => resultOf<Answer<"post", R>>(answer, call.onProgress));
  }

  /** Send a request for long work once, and return what it is answered. Throws as `call`. */
  async work<R extends Route<"post">>(route: R, wanted: Wanted<"post", R>, call: WatchedCallOptions = {}): Promise<Answer<"post", R>> {
    const request = this.#prepared("post", route, wanted as Parts, { ...call, headers: { accept: LINES }, patient: true });
    return this.#attempts(request, async (answer) => resultOf<Answer<"post", R>>(answer, call.onProgress));
  }

  /**
   * Send a request, and return its answer, the body of which is still to be read. Throws as `call`.
   *
   * The caller says when the body is no longer read; until then the signal ends it.
   */
  async open<V extends Verb, R extends Route<V>>(verb: V, route: R, wanted: Wanted<V, R>, extras: Extras = {}): Promise<Opened> {
    return this.#attempts(this.#prepared(verb, route, wanted as Parts, extras), (answer, hold) =>
      Promise.resolve({ answer, release: hold() }),
    );
  }

  /** An address of this server. */
  url(route: string, { path = {}, query = {} }: Parts): URL {
    const url = new URL(this.base);
    url.pathname = url.pathname.replace(/\/$/, "") + route.replace(/\{(\w+)\}/g, (_, name: string) => segment(path[name] ?? ""));
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
    }
    return url;
  }

  #prepared(verb: Verb, route: string, parts: Parts, extras: Extras): Prepared {
    const headers = new Headers(this.headers);
    for (const [name, value] of Object.entries(extras.headers ?? {})) headers.set(name, value);
    const init: Prepared["init"] = { method: verb.toUpperCase(), headers, redirect: "error", credentials: "same-origin" };
    if (parts.body !== undefined) {
      headers.set("content-type", "application/json");
      init.body = JSON.stringify(parts.body);
    } else if (extras.content !== undefined) {
      init.body = extras.content;
      if (extras.content instanceof ReadableStream) init.duplex = "half";
    }
    const timeout = extras.timeout ?? (extras.patient === true ? undefined : this.timeout);
    return { verb, url: this.url(route, parts), init, timeout, signal: extras.signal, repeatable: verb === "get" };
  }

  async #attempts<T>(request: Prepared, read: Reader<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#attempt(request, read);
      } catch (error) {
        const lost = error instanceof OutcomeUnknown || (error instanceof HostError && error.code === "server_unavailable");
        const again = request.repeatable && lost && attempt < this.retries;
        if (!again) throw error;
        await pause(FIRST_PAUSE_MS * 2 ** attempt * (0.5 + Math.random()), request.signal);
      }
    }
  }

  async #attempt<T>(request: Prepared, read: Reader<T>): Promise<T> {
    const deadline = new Deadline(request.timeout, request.signal);
    const held = { by: 0 };
    try {
      const answer = await this.#fetch(request.url, { ...request.init, signal: deadline.signal });
      if (!answer.ok) throw describedError(await json(answer), answer.status, answer.statusText);
      return await read(answer, () => {
        held.by++;
        deadline.disarm();
        return () => {
          deadline.release();
        };
      });
    } catch (error) {
      if (error instanceof BandSoxError) throw error;
      request.signal?.throwIfAborted();
      throw this.#failure(request, deadline.passed ? new Error(`no answer for ${String(request.timeout)} ms`) : error);
    } finally {
      if (held.by === 0) deadline.release();
    }
  }

  #failure(request: Prepared, cause: unknown): BandSoxError {
    if (request.verb === "get" || neverConnected(cause)) return unreachable(this.base, cause);
    const what = `${request.verb.toUpperCase()} ${request.url.pathname}`;
    return new OutcomeUnknown("outcome_unknown", `the connection to ${this.base.origin} was lost in the middle of ${what}`, { cause });
  }
}

/** What long work was answered: at once, or in the last line. */
async function resultOf<T>(answer: Response, onProgress: ((step: Progress) => void) | undefined): Promise<T> {
  if (answer.headers.get("content-type")?.startsWith(LINES) !== true || answer.body === null) return (await answer.json()) as T;
  for await (const { type, ...line } of linesOf(answer.body)) {
    if (type === "result") return line.result as T;
    if (type === "progress") onProgress?.(line as unknown as Progress);
  }
  throw new Error("the answer ended before the work");
}

/** A key that nobody else has. (`crypto.randomUUID` is missing on pages that came without TLS.) */
async function newKey(): Promise<string> {
  const crypto = await platformCrypto();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function platformCrypto(): Promise<Crypto> {
  const found = (globalThis as { crypto?: Crypto }).crypto;
  if (found !== undefined) return found;
  const name = "node:crypto"; // no literal, for bundlers: only Node before 19 has none of its own
  return ((await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as { webcrypto: Crypto }).webcrypto;
}

/** The error of a server that was not reached. */
export function unreachable(base: URL, cause: unknown): HostError {
  const remedy = "see whether `bandsox serve` runs there";
  return new HostError("server_unavailable", `the server at ${base.origin} cannot be reached`, { cause, remedy, retryable: true });
}

function baseOf(given: string): URL {
  try {
    const url = new URL(given, (globalThis as { location?: { href: string } }).location?.href);
    if (url.protocol === "http:" || url.protocol === "https:") return url;
  } catch {
    // said below
  }
  throw new InvalidRequest("invalid_request", `${JSON.stringify(given)} is no address of a server`, {
    remedy: "give one such as https://host:8000",
  });
}

/** A name as one segment of a path: never several of them, and never a way upwards. */
function segment(name: string): string {
  if (/^\.{0,2}$/.test(name)) throw new InvalidRequest("invalid_request", `${JSON.stringify(name)} is no id and no name`);
  return encodeURIComponent(name);
}

async function json(answer: Response): Promise<unknown> {
  try {
    return await answer.json();
  } catch {
    return undefined;
  }
}

function neverConnected(error: unknown): boolean {
  for (let each: unknown = error; each instanceof Error; each = each.cause) {
    if ("code" in each && NEVER_CONNECTED.has(String(each.code))) return true;
  }
  return false;
}

/** Ends a request when its time is over, or its caller's signal says so. */
class Deadline {
  readonly #controller = new AbortController();
  readonly #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #signal: AbortSignal | undefined;
  passed = false;

  constructor(timeout: number | undefined, signal: AbortSignal | undefined) {
    this.#signal = signal;
    signal?.addEventListener("abort", this.#abort, { once: true });
    if (signal?.aborted === true) this.#abort();
    if (timeout !== undefined && Number.isFinite(timeout)) {
      this.#timer = setTimeout(() => {
        this.passed = true;
        this.#controller.abort();
      }, timeout);
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Let it take as long as it likes. */
  disarm(): void {
    clearTimeout(this.#timer);
  }

  /** Let go of it. */
  release(): void {
    this.disarm();
    this.#signal?.removeEventListener("abort", this.#abort);
  }

  readonly #abort = (): void => {
    this.#controller.abort(this.#signal?.reason);
  };
}

/** Wait for so many milliseconds, unless the signal is aborted before. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const aborted = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, ms);
    signal?.addEventListener("abort", aborted, { once: true });
  });
}
