/** A program while it runs. */

import { Channel, type Listener } from "./channel.js";
import { type Connection } from "./connection.js";
import { type BandSoxError, GuestError, InvalidRequest, OutcomeUnknown } from "./errors.js";
import { type CallOptions } from "./types.js";

const STDIN = 0;
const STREAMS: Record<number, "stdout" | "stderr"> = { 1: "stdout", 2: "stderr" };

/** How many bytes of input may be under way, and how many one message has at most: those of the server. */
const WINDOW = 256 << 10;
const CHUNK = 64 << 10;

/** How many bytes of output may wait to be read. WebSockets cannot be told to wait. */
const MAX_UNREAD = 64 << 20;

/** A piece of output. */
export interface Output {
  stream: "stdout" | "stderr";
  data: Uint8Array;
}

/** How a program ended. */
export interface ExecEnd {
  /** 128 + signal where a signal ended it. */
  exit_code: number;
  signal: number | null;
  timed_out: boolean;
  /** Milliseconds of CPU time. */
  cpu_ms: number;
  /** The most memory that one of its processes had, in bytes. */
  max_rss: number;
}

/**
 * A program that runs in a machine. Iterating over it gives its output as it comes; to leave the loop leaves the program as it is.
 *
 * @example
 * ```ts
 * const program = await vm.execute("sort", { stdin: true });
 * await program.write("b\na\n");
 * program.closeStdin();
 * for await (const { data } of program) process.stdout.write(data);
 * console.log((await program.wait()).exit_code);
 * ```
 */
export class Execution implements AsyncIterableIterator<Output> {
  /** Its process id in the guest. */
  readonly pid: number;
  /** Where in its session's output the first piece of each stream begins; 0 for a command. More than was asked for: the rest is gone. */
  readonly offsets: { readonly stdout: number; readonly stderr: number };
  readonly #channel: Channel;
  readonly #events: Events;

  private constructor(channel: Channel, events: Events, started: Started) {
    this.#channel = channel;
    this.#events = events;
    this.pid = started.pid;
    this.offsets = { stdout: started.stdout, stderr: started.stderr };
  }

  /** @internal Open a WebSocket to a program, `first` being what it wants to hear, and wait until it runs. */
  static async open(
    connection: Connection,
    url: URL,
    first: Record<string, unknown> | undefined,
    call: CallOptions = {},
  ): Promise<Execution> {
    const events = new Events();
    const channel = await Channel.open(connection, url, "bandsox.exec", events, call);
    const aborted = (): void => {
      events.fail(call.signal?.reason);
    };
    call.signal?.addEventListener("abort", aborted);
    events.over = () => {
      call.signal?.removeEventListener("abort", aborted);
      channel.close();
    };
    if (first !== undefined) channel.send(first);
    try {
      return new Execution(channel, events, await events.started);
    } catch (error) {
      channel.close();
      throw error;
    }
  }

  /**
   * Feed it. Resolves when so much of it was sent as the program will soon read: no faster than it reads.
   *
   * @throws as {@link wait}, when the program is not there any more.
   */
  async write(input: string | Uint8Array): Promise<void> {
    const data = typeof input === "string" ? new TextEncoder().encode(input) : input;
    for (let sent = 0; sent < data.length;) {
      const size = await this.#events.credit(Math.min(CHUNK, data.length - sent));
      const frame = new Uint8Array(1 + size);
      frame[0] = STDIN;
      frame.set(data.subarray(sent, sent + size), 1);
      this.#channel.send(frame);
      sent += size;
    }
  }

  /** End its input: it reads end-of-file. */
  closeStdin(): void {
    this.#channel.send({ type: "close_stdin" });
  }

  /** Send its process group a signal, by its number. */
  signal(signal: number): void {
    if (!Number.isInteger(signal) || signal < 1 || signal > 64) throw new InvalidRequest("invalid_request", `there is no signal ${signal}`);
    this.#channel.send({ type: "signal", signal });
  }

  /** Tell it the size of its terminal in characters. */
  resize(cols: number, rows: number): void {
    if (![cols, rows].every((size) => Number.isInteger(size) && size >= 1 && size <= 65535)) {
      throw new InvalidRequest("invalid_request", "a terminal has between 1 and 65535 columns and rows");
    }
    this.#channel.send({ type: "resize", cols, rows });
  }

  /**
   * Wait for its end, whether its output is read or not; at most 64 MiB of it wait to be read.
   *
   * @throws Timeout: it ran too long and was killed. OutcomeUnknown: the connection was lost. The reason of the signal.
   */
  async wait(): Promise<ExecEnd> {
    return this.#events.end();
  }

  /** The next piece of output; done when there is no more. Throws as {@link wait}. */
  async next(): Promise<IteratorResult<Output, undefined>> {
    const output = await this.#events.output();
    return output === undefined ? { done: true, value: undefined } : { done: false, value: output };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Leave it: a command ends with its connection, a session goes on. */
  close(): void {
    this.#events.fail(new InvalidRequest("conflict", "this execution was closed"));
  }
}

interface Started {
  pid: number;
  stdout: number;
  stderr: number;
}

/** What has come from a program, and who waits for what. */
class Events implements Listener {
  /** Called when nothing more is to come. */
  over: () => void = () => undefined;
  readonly #begun = deferred<Started>();
  #unread: Output[] = [];
  #unreadBytes = 0;
  #credit = WINDOW;
  #ended: ExecEnd | undefined;
  #failure: { error: unknown } | undefined;
  #waiting: (() => void)[] = [];

  /** That it runs. */
  get started(): Promise<Started> {
    return this.#begun.promise;
  }

  said(message: Record<string, unknown>): void {
    const { type, ...facts } = message;
    if (type === "started") this.#begun.resolve(facts as unknown as Started);
    else if (type === "exit") this.#ended = facts as unknown as ExecEnd;
    else if (type === "window") this.#credit += Number(facts.bytes);
    this.#wake();
  }

  sent(frame: Uint8Array): void {
    const stream = STREAMS[frame[0] ?? -1];
    if (stream === undefined || this.#failure !== undefined) return;
    this.#unread.push({ stream, data: frame.subarray(1) });
    this.#unreadBytes += frame.length;
    if (this.#unreadBytes > MAX_UNREAD) {
      this.fail(
        new GuestError("limit_exceeded", `more than ${MAX_UNREAD} bytes of output were not read`, {
          remedy: "read faster, or write to a file of the guest",
        }),
      );
    }
    this.#wake();
  }

  ended(error: BandSoxError | undefined): void {
    if (this.#ended === undefined) this.fail(error ?? new OutcomeUnknown("outcome_unknown", "the execution was closed"));
    this.over();
  }

  /** End it with an error, which everybody meets who waits for anything. What was not read is gone. */
  fail(error: unknown): void {
    if (this.#ended !== undefined || this.#failure !== undefined) return;
    this.#failure = { error };
    this.#unread = [];
    this.#begun.reject(error);
    this.#wake();
    this.over();
  }

  /** The next piece of output; undefined after the last. */
  async output(): Promise<Output | undefined> {
    for (;;) {
      const output = this.#unread.shift();
      if (output !== undefined) {
        this.#unreadBytes -= output.data.length + 1;
        return output;
      }
      if (this.#isOver()) return undefined;
      await this.#change();
    }
  }

  async end(): Promise<ExecEnd> {
    while (!this.#isOver()) await this.#change();
    return this.#ended as unknown as ExecEnd;
  }

  /** Wait until some input may be sent; how many bytes of so many. */
  async credit(wanted: number): Promise<number> {
    while (this.#credit === 0) {
      if (this.#isOver()) return wanted; // the program needs no more
      await this.#change();
    }
    const granted = Math.min(wanted, this.#credit);
    this.#credit -= granted;
    return granted;
  }

  /** Whether it has ended well; throws where it has not. */
  #isOver(): boolean {
    if (this.#ended !== undefined) return true;
    if (this.#failure !== undefined) throw this.#failure.error;
    return false;
  }

  async #change(): Promise<void> {
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}

interface Deferred<T> {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
}

/** A promise that is settled from elsewhere. Where nobody looks at it, its failure is no fault. */
function deferred<T>(): Deferred<T> {
  let settle: Omit<Deferred<T>, "promise"> | undefined;
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  promise.catch(() => undefined);
  return { promise, ...(settle as unknown as Omit<Deferred<T>, "promise">) };
}
