/** A terminal in a machine that outlives its connection. */

import { pause } from "./connection.js";
import { BandSoxError, HostError, InvalidRequest, OutcomeUnknown } from "./errors.js";
import { type ExecEnd, type Execution } from "./execution.js";
import { Changes } from "./windows.js";

/** What a terminal runs where nothing else is asked for: bash where the image has it, else sh. */
export const SHELL = "command -v bash >/dev/null 2>&1 && exec bash; exec sh";

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
const RECONNECT_FOR_MS = 10 * 60_000;
const MAX_PENDING_INPUT = 1 << 20;

/** What a terminal runs, and how long it waits for a server that is away. */
export interface TerminalOptions {
  /** What to run in the place of a shell. */
  command?: string | undefined;
  /** Variables of its environment. */
  env?: Record<string, string> | undefined;
  /** The directory it starts in. */
  cwd?: string | undefined;
  /** The user it runs as. */
  user?: string | undefined;
  /** A session with a terminal that runs already, to come back to: what is kept of its output comes first. */
  session?: string | undefined;
  /** Milliseconds for which to try again when the connection is lost; 10 minutes by default, 0 for never. */
  reconnectFor?: number | undefined;
  /** Ends it with everything that runs in it, as {@link TerminalSession.close} does. */
  signal?: AbortSignal | undefined;
}

/** What a terminal does: `connected`, or on its way to be so. */
export type TerminalState = "connecting" | "connected" | "reconnecting" | "closed";

/** How a terminal ended. */
export interface TerminalEnd {
  /** The program's exit code; undefined where it was not seen to end. */
  exitCode: number | undefined;
}

/** @internal What a terminal needs of its machine. */
export interface TerminalHost {
  start(
    command: string,
    options: { env: Record<string, string>; cwd: string | undefined; user: string | undefined; cols: number; rows: number },
  ): Promise<string>;
  attach(session: string, stdout: number | undefined, signal: AbortSignal): Promise<Execution>;
  end(session: string): Promise<void>;
}

/** What is told of something. */
export type Handler<T> = (value: T) => void;

/** What is shown of a terminal. Where it returns a promise the terminal prints no more before that is kept, and the program waits. */
export type OutputHandler = (text: string) => unknown;

/** How many characters are kept for the first listener at most; then the program waits for him. */
const MAX_KEPT = 1 << 20;

/** What a terminal prints, which is kept until somebody listens. */
class Shown {
  readonly #handlers = new Set<OutputHandler>();
  readonly #changes = new Changes();
  #kept = "";

  on(handler: OutputHandler): () => void {
    this.#handlers.add(handler);
    const kept = this.#kept;
    this.#kept = "";
    if (kept !== "") handler(kept);
    this.#changes.tell();
    return () => this.#handlers.delete(handler);
  }

  /** Show it; resolves when everybody who listens has it. */
  async show(text: string): Promise<void> {
    if (text === "") return;
    while (this.#handlers.size === 0 && this.#kept.length + text.length > MAX_KEPT) await this.#changes.next();
    if (this.#handlers.size === 0) this.#kept += text;
    await Promise.all([...this.#handlers].map((handler) => handler(text)));
  }
}

/** A kind of event, the values of which are kept until somebody listens. */
class Event<T> {
  #handlers = new Set<Handler<T>>();
  #kept: T[] = [];

  on(handler: Handler<T>): () => void {
    this.#handlers.add(handler);
    const kept = this.#kept;
    this.#kept = [];
    for (const value of kept) handler(value);
    return () => this.#handlers.delete(handler);
  }

  emit(value: T): void {
    if (this.#handlers.size === 0) this.#kept.push(value);
    for (const handler of this.#handlers) handler(value);
  }
}

/**
 * A terminal. It is a session of the machine: when the connection is lost, it is taken up again where it was, and nothing is missing as long as
 * the program has printed less than 1 MiB meanwhile.
 *
 * Each `on…` method takes a listener, and returns what removes it. What happened before the first listener is told to it.
 */
export class TerminalSession {
  readonly #host: TerminalHost;
  readonly #options: TerminalOptions;
  readonly #output = new Shown();
  readonly #close = new Event<TerminalEnd>();
  readonly #error = new Event<BandSoxError>();
  readonly #state = new Event<TerminalState>();
  readonly #gap = new Event<number>();
  readonly #abort = new AbortController();
  #execution: Execution | undefined;
  #session: string | undefined;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #feeding: Promise<void> = Promise.resolve();
  #size: { cols: number; rows: number };
  #closed = false;
  #killed = false;

  /** @internal */
  constructor(host: TerminalHost, cols: number, rows: number, options: TerminalOptions = {}) {
    this.#host = host;
    this.#size = { cols, rows };
    this.#options = options;
    this.#session = options.session;
    options.signal?.addEventListener("abort", this.#aborted, { once: true });
    if (options.signal?.aborted === true) this.#finish(undefined);
    else void this.#run();
  }

  /** Whether it is over. */
  get closed(): boolean {
    return this.#closed;
  }

  /** The session's id once it is known, with which another terminal can come back to it. */
  get session(): string | undefined {
    return this.#session;
  }

  /** What it prints, as text: no character is ever split. A listener that returns a promise makes the program wait until he has shown it. */
  onOutput(handler: OutputHandler): () => void {
    return this.#output.on(handler);
  }

  /** That it is over: the program has ended, it was closed, or it failed, of which `onError` tells before. */
  onClose(handler: Handler<TerminalEnd>): () => void {
    return this.#close.on(handler);
  }

  /** Why it failed. */
  onError(handler: Handler<BandSoxError>): () => void {
    return this.#error.on(handler);
  }

  /** Whether it is connected. */
  onState(handler: Handler<TerminalState>): () => void {
    return this.#state.on(handler);
  }

  /** That so many bytes were printed meanwhile which are gone: the screen should be cleared. */
  onGap(handler: Handler<number>): () => void {
    return this.#gap.on(handler);
  }

  /** Type something. What is typed while the connection is away is sent when it is back. */
  sendInput(input: string | Uint8Array): void {
    if (this.#closed) return;
    const data = typeof input === "string" ? new TextEncoder().encode(input) : input;
    if (this.#pendingBytes + data.length > MAX_PENDING_INPUT) {
      throw new InvalidRequest("request_too_large", `more than ${MAX_PENDING_INPUT} bytes of input wait to be sent`);
    }
    this.#pending.push(data);
    this.#pendingBytes += data.length;
    this.#feed();
  }

  /** Tell it its size in characters. */
  resize(cols: number, rows: number): void {
    this.#size = { cols, rows };
    this.#execution?.resize(cols, rows);
  }

  /** End it, with everything that runs in it. */
  close(): void {
    if (this.#closed) return;
    const session = this.#session;
    this.#killed = true;
    this.#finish(undefined);
    if (session !== undefined) this.#host.end(session).catch(() => undefined); // it ends with its machine at the latest
  }

  /** Leave it running; {@link session} is the way back. */
  detach(): void {
    this.#finish(undefined);
  }

  readonly #aborted = (): void => {
    this.close();
  };

  async #run(): Promise<void> {
    try {
      this.#state.emit("connecting");
      this.#session ??= await this.#started();
      if (this.#killed)
        await this.#host.end(this.#session); // closed while it was started
      else await this.#follow(this.#session);
    } catch (error) {
      if (this.#closed) return;
      this.#error.emit(error instanceof BandSoxError ? error : new BandSoxError("internal_error", String(error), { cause: error }));
      this.#finish(undefined);
    }
  }

  async #started(): Promise<string> {
    const { command = SHELL, env, cwd, user } = this.#options;
    return this.#host.start(command, { env: { TERM: "xterm-256color", ...env }, cwd, user, ...this.#size });
  }

  /** Show what the session prints until it ends, over as many connections as that takes. */
  async #follow(session: string): Promise<void> {
    let offset: number | undefined;
    let decoder = new TextDecoder();
    let lostAt: number | undefined;
    for (let attempt = 0; !this.#closed; attempt++) {
      try {
        const execution = await this.#host.attach(session, offset, this.#abort.signal);
        if (offset !== undefined && execution.offsets.stdout > offset) {
          decoder = new TextDecoder();
          this.#gap.emit(execution.offsets.stdout - offset);
        }
        offset = execution.offsets.stdout;
        attempt = 0;
        lostAt = undefined;
        this.#connected(execution);
        for await (const { data } of execution) {
          offset += data.length;
          await this.#output.show(decoder.decode(data, { stream: true }));
        }
        this.#ended(session, await execution.wait());
        return;
      } catch (error) {
        this.#execution = undefined;
        lostAt ??= Date.now();
        const patience = this.#options.reconnectFor ?? RECONNECT_FOR_MS;
        if (this.#abort.signal.aborted || !mayPass(error) || Date.now() - lostAt > patience || patience === 0) throw error;
        this.#state.emit("reconnecting");
        await pause(Math.min(FIRST_PAUSE_MS * 2 ** attempt, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2), this.#abort.signal);
      }
    }
  }

  #connected(execution: Execution): void {
    this.#execution = execution;
    execution.resize(this.#size.cols, this.#size.rows);
    this.#state.emit("connected");
    this.#feed();
  }

  /** Send what was typed, in its order, no faster than it is read. */
  #feed(): void {
    this.#feeding = this.#feeding.then(async () => {
      for (let data = this.#pending[0]; data !== undefined && this.#execution !== undefined; data = this.#pending[0]) {
        this.#pending.shift();
        this.#pendingBytes -= data.length;
        await this.#execution.write(data).catch(() => undefined); // whoever reads the output meets it as well
      }
    });
  }

  #ended(session: string, end: ExecEnd): void {
    this.#finish(end.exit_code);
    this.#host.end(session).catch(() => undefined);
  }

  #finish(exitCode: number | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#options.signal?.removeEventListener("abort", this.#aborted);
    this.#abort.abort();
    this.#execution?.close();
    this.#state.emit("closed");
    this.#close.emit({ exitCode });
  }
}

/** Whether a server that could not be reached, or was lost, may be there again. */
function mayPass(error: unknown): boolean {
  return error instanceof OutcomeUnknown || (error instanceof HostError && error.retryable);
}
