/**
 * How much may be under way in a WebSocket, in either direction. The platforms' WebSockets can be told neither to wait nor to say what has gone, so
 * either end tells the other what it has taken; what is beyond a window stays where it was made.
 */

/** How many bytes may be under way to the server, and how many one message has at most: those of the server. */
const INPUT_WINDOW = 256 << 10;
const CHUNK = 64 << 10;

/** How many bytes that came wait to be read at most. */
export const WINDOW = 1 << 20;

/** What has come and was not read yet. */
export class Unread<T extends { readonly length: number }> {
  readonly #tell: (bytes: number) => void;
  #pieces: T[] = [];
  #bytes = 0;
  #taken = 0;

  /** @param tell says to the server that so many bytes were taken. */
  constructor(tell: (bytes: number) => void) {
    this.#tell = tell;
  }

  /** Whether the server sends no more before something is read. */
  get full(): boolean {
    return this.#bytes + this.#taken >= WINDOW;
  }

  add(piece: T): void {
    if (piece.length === 0) return;
    this.#pieces.push(piece);
    this.#bytes += piece.length;
  }

  /** The next piece, of which the server hears with the next ones; undefined where there is none. */
  take(): T | undefined {
    const piece = this.#pieces.shift();
    if (piece === undefined) return undefined;
    this.#bytes -= piece.length;
    this.#taken += piece.length;
    if (this.#taken >= WINDOW / 4) {
      this.#tell(this.#taken);
      this.#taken = 0;
    }
    return piece;
  }

  clear(): void {
    this.#pieces = [];
    this.#bytes = 0;
  }
}

/** Those who wait for something to change. */
export class Changes {
  #waiting: (() => void)[] = [];

  async next(): Promise<void> {
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  tell(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** How much more may be sent. */
export class Credit {
  #bytes = INPUT_WINDOW;

  widen(bytes: number): void {
    this.#bytes += bytes;
  }

  /** How many of so many bytes may be sent now, in one message; 0 for none yet. */
  take(wanted: number): number {
    const granted = Math.min(wanted, CHUNK, this.#bytes);
    this.#bytes -= granted;
    return granted;
  }
}
