/// <reference lib="esnext.disposable" preserve="true" />
/** A connection to a port of a machine, as bytes in both directions. */

import { Channel, type Listener } from "./channel.js";
import { type Connection } from "./connection.js";
import { type BandSoxError, InvalidRequest, OutcomeUnknown } from "./errors.js";
import { type CallOptions } from "./types.js";
import { Changes, Credit, Unread, WINDOW } from "./windows.js";

/** Where a connection leads, and how long it may take to come about. */
export interface ConnectOptions {
  /** An IP address that is reached from within the machine; by default the machine itself. */
  host?: string | undefined;
  /** Seconds until it must have come about; 10 by default. */
  timeout?: number | undefined;
}

/**
 * A TCP connection to a port of a machine, carried by its agent: it needs no network. Either direction goes as fast as its reader reads.
 *
 * @example
 * ```ts
 * await using redis = await vm.connect(6379);
 * const writer = redis.writable.getWriter();
 * await writer.write(new TextEncoder().encode("PING\\r\\n"));
 * for await (const bytes of redis.readable) console.log(bytes);
 * ```
 */
export class GuestSocket {
  /** What comes, until the program in the machine ends it. To cancel it closes the connection. */
  readonly readable: ReadableStream<Uint8Array>;
  /** What goes there. To close it ends this direction only, to abort it closes the connection. */
  readonly writable: WritableStream<Uint8Array>;
  readonly #events: Arrivals;

  private constructor(channel: Channel, events: Arrivals) {
    this.#events = events;
    this.readable = new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          const data = await events.read();
          if (data === undefined) controller.close();
          else controller.enqueue(data);
        },
        cancel: () => {
          this.close();
        },
      },
      { highWaterMark: 0 },
    );
    this.writable = new WritableStream<Uint8Array>({
      async write(data) {
        for (let sent = 0; sent < data.length;) {
          const size = await events.credit(data.length - sent);
          channel.send(data.slice(sent, sent + size));
          sent += size;
        }
      },
      close: () => {
        channel.send({ type: "eof" });
      },
      abort: () => {
        this.close();
      },
    });
  }

  /** @internal Open one, and wait until the program in the machine has it. */
  static async open(connection: Connection, url: URL, call: CallOptions = {}): Promise<GuestSocket> {
    url.searchParams.set("window", String(WINDOW));
    const events = new Arrivals();
    const channel = await Channel.open(connection, url, "bandsox.exec", events, call);
    const aborted = (): void => {
      events.fail(call.signal?.reason);
    };
    call.signal?.addEventListener("abort", aborted);
    events.taken = (bytes) => {
      channel.send({ type: "window", bytes });
    };
    events.over = () => {
      call.signal?.removeEventListener("abort", aborted);
      channel.close();
    };
    await events.connected();
    return new GuestSocket(channel, events);
  }

  /** Close it in both directions. */
  close(): void {
    this.#events.fail(new InvalidRequest("conflict", "this connection was closed"));
  }

  /** Close it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }
}

/** What has come over a connection, and who waits for what. */
class Arrivals implements Listener {
  /** Called when nothing more is to come. */
  over: () => void = () => undefined;
  /** Called with how many bytes were read. */
  taken: (bytes: number) => void = () => undefined;
  readonly #unread = new Unread<Uint8Array>((bytes) => {
    this.taken(bytes);
  });
  readonly #credit = new Credit();
  readonly #changes = new Changes();
  #isConnected = false;
  #isOver = false;
  #failure: { error: unknown } | undefined;

  said({ type, bytes }: Record<string, unknown>): void {
    if (type === "connected") this.#isConnected = true;
    else if (type === "eof") this.#isOver = true;
    else if (type === "window") this.#credit.widen(Number(bytes));
    this.#changes.tell();
  }

  sent(data: Uint8Array): void {
    this.#unread.add(data);
    this.#changes.tell();
  }

  ended(error: BandSoxError | undefined): void {
    this.fail(error ?? new OutcomeUnknown("outcome_unknown", "the connection was closed"));
  }

  /** End it: whoever waits for anything meets the error, after what has come before it. */
  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    this.#changes.tell();
    this.over();
  }

  async connected(): Promise<void> {
    while (!this.#isConnected) await this.#change();
  }

  /** The next bytes; undefined at their end. */
  async read(): Promise<Uint8Array | undefined> {
    for (;;) {
      const data = this.#unread.take();
      if (data !== undefined || this.#isOver) return data;
      await this.#change();
    }
  }

  /** Wait until some of so many bytes may be sent; how many. */
  async credit(wanted: number): Promise<number> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure.error;
      const granted = this.#credit.take(wanted);
      if (granted > 0) return granted;
      await this.#change();
    }
  }

  async #change(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.error;
    await this.#changes.next();
  }
}
