/** How the server is reached, and how calls of it are made. */

import { type Shape } from "../schema.js";

/** Where the server is, and how to speak to it. */
export interface BandSoxConfig {
  /** The server's address, such as `https://host:8000`; in a browser it may be relative to the page. */
  baseUrl: string;
  /**
   * Sent with every request, such as `Authorization`. WebSockets, to which platforms add no headers, carry a bearer token in their list of
   * subprotocols, and none of the others.
   */
  headers?: Record<string, string> | undefined;
  /** Milliseconds that a server may take for an answer which needs no long work; 60,000 by default. */
  timeout?: number | undefined;
  /** How often a request that has no effects is sent again when the connection is lost; twice by default. */
  retries?: number | undefined;
  /** In the place of the platform's `WebSocket`. Node before 22 has none: there the package `ws` is used, where it is installed. */
  WebSocket?: WebSocketConstructor | undefined;
  /** In the place of the platform's `fetch`, such as one with an agent that knows a private certificate authority. */
  fetch?: typeof fetch | undefined;
}

/** What makes WebSockets: the platform's, or one like it. */
export type WebSocketConstructor = new (url: string, protocols?: string[]) => WebSocketLike;

/** What this package uses of a WebSocket. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  readonly readyState: number;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: never) => void): void;
}

/** How one call is made. It is the last parameter of every method. */
export interface CallOptions {
  /** Ends the call, which is then rejected with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Milliseconds until the answer has to be there, in the place of the client's; for work that may take long there is none by default. */
  timeout?: number | undefined;
}

/** How a call is made that makes something, and may take long. */
export interface LongCallOptions extends CallOptions {
  /**
   * The server does it once under this key, however often it is asked to, for a day; a new one by default. With a key of its own, a program that
   * was started anew asks again and gets what was made. Work with a key goes on when its caller goes away; without one, null, the server gives it
   * up when the signal is aborted.
   */
  idempotencyKey?: string | null | undefined;
  /** Told of each step. */
  onProgress?: ((step: Progress) => void) | undefined;
}

/** How a call is made that takes long, and is not sent twice. */
export interface WatchedCallOptions extends CallOptions {
  /** Told of each step. */
  onProgress?: ((step: Progress) => void) | undefined;
}

/** A step of long work. */
export interface Progress {
  /** Such as `pull` or `boot`; steps of one task replace each other. */
  task: string;
  label: string;
  done: number;
  total: number | null;
  unit: "bytes" | "steps";
  finished: boolean;
}

/** What has become of a request with a key. */
export interface RequestOutcome extends Shape<"Outcome"> {}
