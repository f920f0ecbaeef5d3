/** WebSockets to a server: how one is opened, and what comes over it, one message at a time. */

import { type Connection, unreachable } from "./connection.js";
import { AccessDenied, type BandSoxError, HostError, OutcomeUnknown, describedError } from "./errors.js";
import { type CallOptions, type WebSocketConstructor, type WebSocketLike } from "./types.js";

/** The server does not know who is calling, and so said nothing else. */
const UNKNOWN_CALLER = 4001;

/** What a WebSocket is about, and whom it tells. */
export interface Listener {
  /** An object that came as text. */
  said(message: Record<string, unknown>): void;
  /** Bytes that came. */
  sent(data: Uint8Array): void;
  /** It is over: without an error where this end has closed it. Nothing comes afterwards. */
  ended(error: BandSoxError | undefined): void;
}

interface CloseLike {
  code?: number;
  reason?: string;
}

/** A WebSocket that is open. */
export class Channel {
  readonly #socket: WebSocketLike;
  #closing = false;

  private constructor(socket: WebSocketLike) {
    this.#socket = socket;
  }

  /**
   * Open one.
   *
   * @param route its address, with a query.
   * @param protocol the subprotocol to ask for; the caller's key travels beside it, as browsers can add no headers.
   * @throws HostError: the server was not reached, or the platform has no WebSocket. The reason of the signal.
   */
  static async open(connection: Connection, url: URL, protocol: string, listener: Listener, call: CallOptions = {}): Promise<Channel> {
    const WebSocket = connection.WebSocket ?? (await platformWebSocket());
    call.signal?.throwIfAborted();
    const address = new URL(url);
    address.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const token = connection.token;
    const socket = new WebSocket(address.href, token === undefined ? [protocol] : [protocol, `bandsox.auth.${base64url(token)}`]);
    socket.binaryType = "arraybuffer";
    const channel = new Channel(socket);
    await channel.#opened(connection, listener, call);
    return channel;
  }

  /** Send text or bytes; nothing when it is over, of which the listener is told. */
  send(message: Record<string, unknown> | Uint8Array<ArrayBuffer>): void {
    if (this.#socket.readyState !== 1) return;
    this.#socket.send(message instanceof Uint8Array ? message : JSON.stringify(message));
  }

  /** Close it. */
  close(): void {
    this.#closing = true;
    this.#socket.close();
  }

  /** Everything that can happen to it: it opens or fails, says what it says, and ends exactly once. */
  async #opened(connection: Connection, listener: Listener, { signal, timeout }: CallOptions): Promise<void> {
    const socket = this.#socket;
    await new Promise<void>((resolve, reject) => {
      let open = false;
      let failure: BandSoxError | undefined;
      const aborted = (): void => {
        this.close();
        reject(signal?.reason as Error);
      };
      const timer = setTimeout(() => {
        this.close();
        reject(unreachable(connection.base, new Error("no WebSocket was opened in time")));
      }, timeout ?? connection.timeout);
      signal?.addEventListener("abort", aborted, { once: true });
      socket.addEventListener("open", () => {
        open = true;
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        resolve();
      });
      socket.addEventListener("message", ({ data }: { data: unknown }) => {
        if (typeof data !== "string") listener.sent(new Uint8Array(data as ArrayBuffer));
        else {
          const message = JSON.parse(data) as Record<string, unknown>;
          if (message.type === "error") failure = describedError(message.failure);
          else listener.said(message);
        }
      });
      socket.addEventListener("error", ({ error, message }: { error?: unknown; message?: string }) => {
        if (!open) reject(unreachable(connection.base, error ?? message));
      });
      socket.addEventListener("close", (event: CloseLike) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        if (!open) reject(unreachable(connection.base, `the WebSocket was closed with ${String(event.code)}`));
        else listener.ended(this.#closing ? undefined : (failure ?? lost(connection, event)));
      });
    });
  }
}

function lost(connection: Connection, { code, reason }: CloseLike): BandSoxError {
  if (code === UNKNOWN_CALLER) {
    const remedy = "give headers with a key of the scope exec";
    return new AccessDenied("not_authenticated", "this server does not let you run programs", { statusCode: 401, remedy });
  }
  const cause = `closed with ${String(code)} ${reason ?? ""}`.trim();
  return new OutcomeUnknown("outcome_unknown", `the connection to ${connection.base.origin} was lost`, { cause });
}

async function platformWebSocket(): Promise<WebSocketConstructor> {
  const found = (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
  if (found !== undefined) return found;
  // Not a literal, so that bundlers for platforms that have their own do not look for it.
  const name = "ws";
  try {
    const module = (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as { default: WebSocketConstructor };
    return module.default;
  } catch (cause) {
    const remedy = "install the package ws, use Node 22 or newer, or give WebSocket to the constructor of BandSox";
    throw new HostError("unsupported", "this platform has no WebSocket", { cause, remedy });
  }
}

/** Text as base64url without padding, which may stand in a list of subprotocols. */
function base64url(text: string): string {
  const binary = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
