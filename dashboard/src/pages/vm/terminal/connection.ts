/** The connection to a session of a guest, taken up again where it broke off. `bandsox.wire` says what is spoken. */

import { part } from "../../../api/http";

export interface Listener {
  output: (bytes: Uint8Array) => void;
  /** Whether it is connected now. */
  connected: (yes: boolean) => void;
  ended: (exitCode: number) => void;
  /** It cannot be taken up again: the session, or the VM, is not there any more. */
  lost: (why: string) => void;
}

const STDIN = 0;
const CHUNK = 64 << 10;
const WINDOW = 256 << 10;
const LONGEST_WAIT_MS = 10_000;
const FIRST_WAIT_MS = 250;

/** Codes with which the server closes: who are you, failed, not there. */
const FINAL = new Set([4000, 4001, 4004]);

type Told =
  | { type: "started"; stdout: number; stderr: number }
  | { type: "exit"; exit_code: number }
  | { type: "window"; bytes: number }
  | { type: "error"; error: string };

export class Connection {
  readonly #address: string;
  readonly #listener: Listener;
  #socket: WebSocket | null = null;
  #offsets = { stdout: 0, stderr: 0 };
  #window = WINDOW;
  #waiting: Uint8Array<ArrayBuffer>[] = [];
  #size: { cols: number; rows: number } | null = null;
  #over = false;
  #why = "the connection ended";
  #wait = FIRST_WAIT_MS;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(vm: string, session: string, listener: Listener) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.#address = `${scheme}://${location.host}/api/vms/${part(vm)}/sessions/${part(session)}/attach`;
    this.#listener = listener;
    addEventListener("online", this.#open);
    this.#open();
  }

  /** Leave the session, which goes on. */
  close(): void {
    this.#end();
    this.#socket?.close();
  }

  send(bytes: Uint8Array<ArrayBuffer>): void {
    for (let at = 0; at < bytes.length; at += CHUNK) this.#waiting.push(bytes.subarray(at, at + CHUNK));
    this.#flush();
  }

  resize(cols: number, rows: number): void {
    this.#size = { cols, rows };
    this.#tell({ type: "resize", cols, rows });
  }

  readonly #open = (): void => {
    clearTimeout(this.#timer);
    if (this.#over || (this.#socket && this.#socket.readyState <= WebSocket.OPEN)) return;
    const { stdout, stderr } = this.#offsets;
    const socket = new WebSocket(`${this.#address}?stdout=${stdout}&stderr=${stderr}`, ["bandsox.terminal"]);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
      if (typeof data === "string") this.#told(JSON.parse(data) as Told);
      else this.#output(new Uint8Array(data));
    };
    socket.onclose = ({ code }) => this.#closed(code);
    this.#socket = socket;
  };

  #told(message: Told): void {
    switch (message.type) {
      case "started":
        this.#offsets = { stdout: message.stdout, stderr: message.stderr };
        this.#window = WINDOW;
        this.#wait = FIRST_WAIT_MS;
        this.#listener.connected(true);
        if (this.#size) this.#tell({ type: "resize", ...this.#size });
        this.#flush();
        break;
      case "window":
        this.#window += message.bytes;
        this.#flush();
        break;
      case "exit":
        this.#end();
        this.#listener.ended(message.exit_code);
        break;
      case "error":
        this.#why = message.error;
    }
  }

  #output(frame: Uint8Array): void {
    this.#offsets[frame[0] === 1 ? "stdout" : "stderr"] += frame.length - 1;
    this.#listener.output(frame.subarray(1));
  }

  #closed(code: number): void {
    if (this.#over) return;
    this.#listener.connected(false);
    if (FINAL.has(code)) {
      this.#end();
      this.#listener.lost(this.#why);
      return;
    }
    this.#timer = setTimeout(this.#open, this.#wait);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
  }

  #end(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    removeEventListener("online", this.#open);
  }

  #flush(): void {
    while (this.#socket?.readyState === WebSocket.OPEN && this.#waiting[0] && this.#waiting[0].length <= this.#window) {
      const bytes = this.#waiting.shift()!;
      const frame = new Uint8Array(bytes.length + 1);
      frame[0] = STDIN;
      frame.set(bytes, 1);
      this.#socket.send(frame);
      this.#window -= bytes.length;
    }
  }

  #tell(message: object): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }
}
