/** A program while it runs. */

import { Channel, type Listener } from "./channel.js";
import { type Connection } from "./connection.js";
import { type BandSoxError, GuestError, InvalidRequest, OutcomeUnknown } from "./errors.js";
import { type CallOptions } from "./types.js";
import { Changes, Credit, Unread, WINDOW } from "./windows.js";

const STDIN = 0;
const STREAMS: Record<number, "stdout" | "stderr"> = { 1: "stdout", 2: "stderr" };

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
 * Output that is not read waits, at most 1 MiB of it: then the program waits too, as at a full pipe.
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
    if (first === undefined) url.searchParams.set("window", String(WINDOW));
    const channel = await Channel.open(connection, url, "bandsox.exec", events, call);
    events.taken = (bytes) => {
      channel.send({ type: "window", bytes });
    };
    const aborted = (): void => {
      events.fail(call.signal?.reason);
    };
    call.signal?.addEventListener("abort", aborted);
    events.over = () => {
      call.signal?.removeEventListener("abort", aborted);
      channel.close();
    };
    if (first !== undefined) channel.send({ ...first, window: WINDOW });
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
      const size = await this.#events.credit(data.length - sent);
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
   * Wait for its end. Its output can be read meanwhile or afterwards.
   *
   * @throws Timeout: it ran too long and was killed. OutcomeUnknown: the connection was lost. GuestError: it waits to print more than 1 MiB,
   * and nobody reads it. The reason of the signal.
   */
  async wait(): Promise<ExecEnd> {
    return this.#events.end();
  }

  /** The next piece of output; done when there is no more. Throws as {@link wait}. */
  async next(): Promise<IteratorResult<Output, undefined>> {
    const output = await this.#events.output();
    return output === undefined ? { done: true, value: undefined } : { done: false, value: output };
  }

  /** Read no more, as whoever leaves a loop; {@link next} goes on. */
  async return(): Promise<IteratorResult<Output, undefined>> {
    this.#events.leave();
    return Promise.resolve({ done: true, value: undefined });
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

/** A piece of output, of its length. */
interface Piece extends Output {
  readonly length: number;
}

/** What has come from a program, and who waits for what. */
class Events implements Listener {
  /** Called when nothing more is to come. */
  over: () => void = () => undefined;
  /** Called with how many bytes of output were read. */
  taken: (bytes: number) => void = () => undefined;
  readonly #begun = deferred<Started>();
  readonly #unread = new Unread<Piece>((bytes) => {
    this.taken(bytes);
  });
  readonly #credit = new Credit();
  readonly #changes = new Changes();
  #isRead = false;
  #ended: ExecEnd | undefined;
  #failure: { error: unknown } | undefined;

  /** That it runs. */
  get started(): Promise<Started> {
    return this.#begun.promise;
  }

  said(message: Record<string, unknown>): void {
    const { type, ...facts } = message;
    if (type === "started") this.#begun.resolve(facts as unknown as Started);
    else if (type === "exit") this.#ended = facts as unknown as ExecEnd;
    else if (type === "window") this.#credit.widen(Number(facts.bytes));
    this.#changes.tell();
  }

  sent(frame: Uint8Array): void {
    const stream = STREAMS[frame[0] ?? -1];
    if (stream === undefined || this.#failure !== undefined) return;
    const data = frame.subarray(1);
    this.#unread.add({ stream, data, length: data.length });
    this.#changes.tell();
  }

  ended(error: BandSoxError | undefined): void {
    if (this.#ended === undefined) this.fail(error ?? new OutcomeUnknown("outcome_unknown", "the execution was closed"));
    this.over();
  }

  /** End it with an error, which everybody meets who waits for anything. What was not read is gone. */
  fail(error: unknown): void {
    if (this.#ended !== undefined || this.#failure !== undefined) return;
    this.#failure = { error };
    this.#unread.clear();
    this.#begun.reject(error);
    this.#changes.tell();
    this.over();
  }

  /** The next piece of output; undefined after the last. */
  async output(): Promise<Output | undefined> {
    this.#isRead = true;
    for (;;) {
      const piece = this.#unread.take();
      if (piece !== undefined) return { stream: piece.stream, data: piece.data };
      if (this.#isOver()) return undefined;
      await this.#changes.next();
    }
  }

  /** Nobody reads any more. */
  leave(): void {
    this.#isRead = false;
    this.#changes.tell();
  }

  async end(): Promise<ExecEnd> {
    while (!this.#isOver()) {
      if (this.#unread.full && !this.#isRead) this.fail(unreadable());
      else await this.#changes.next();
    }
    return this.#ended as unknown as ExecEnd;
  }

  /** Wait until some input may be sent; how many bytes of so many. */
  async credit(wanted: number): Promise<number> {
    for (;;) {
      if (this.#isOver()) return wanted; // the program needs no more
      const granted = this.#credit.take(wanted);
      if (granted > 0) return granted;
      await this.#changes.next();
    }
  }

  /** Whether it has ended well; throws where it has not. */
  #isOver(): boolean {
    if (this.#ended !== undefined) return true;
    if (this.#failure !== undefined) throw this.#failure.error;
    return false;
  }
}

function unreadable(): GuestError {
  return new GuestError("limit_exceeded", `the program waits to print more than the ${WINDOW} bytes that nobody has read`, {
    remedy: "read its output while it runs, or have it written to a file of the guest",
  });
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
