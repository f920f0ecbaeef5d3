/** A network that fails when it is told to: a TCP proxy in front of a server. */

import { once } from "node:events";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";

export class Proxy {
  /** After how many bytes from the server the next connections are cut off, one number for each. */
  cuts: number[] = [];
  /** How many connections were made. */
  connections = 0;
  /** How many bytes came from the server. */
  received = 0;
  /** Its address. */
  readonly url: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  /** A proxy in front of the server with this address. */
  static async of(target: string): Promise<Proxy> {
    const { port, hostname } = new URL(target);
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const proxy = new Proxy(server);
    server.on("connection", (near) => {
      proxy.#pass(near, connect(Number(port), hostname));
    });
    return proxy;
  }

  /** Break off every connection there is. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  close(): void {
    this.#server.close();
    this.cut();
  }

  #pass(near: Socket, far: Socket): void {
    this.connections++;
    const cut = this.cuts.shift() ?? Infinity;
    let passed = 0;
    far.on("data", (data) => {
      passed += data.length;
      this.received += data.length;
      if (passed < cut) near.write(data);
      else near.resetAndDestroy();
    });
    near.pipe(far);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(one);
      one.on("error", () => undefined); // it is closed then
      one.on("close", () => {
        this.#sockets.delete(one);
        other.destroy();
      });
    }
  }
}
