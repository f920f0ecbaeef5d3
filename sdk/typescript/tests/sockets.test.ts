import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { BandSox, MicroVM } from "../src/index.js";
import { Proxy } from "./proxy.js";

const server = inject("server");
const bandsox = new BandSox({ baseUrl: server.url });
let vm: MicroVM;

/** Servers of the guest: one that says back what it hears, one that never stops, one that hears nothing, one that breaks off. */
const SERVERS = `
import os, socket, struct, threading

def serve(port, handle):
    listening = socket.create_server(("127.0.0.1", port))
    def accept():
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=handle, args=[connection]).start()
    threading.Thread(target=accept).start()

def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.sendall(b"over")
    connection.close()

def pour(connection):
    try:
        while True:
            connection.sendall(bytes(65536))
    except OSError:
        print("left", flush=True)

def ignore(connection):
    while True:
        threading.Event().wait()

def reset(connection):
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

for port, handle in ((7, echo), (19, pour), (9, ignore), (8, reset)):
    serve(port, handle)
print("listening", flush=True)
`;

beforeAll(async () => {
  vm = await bandsox.createVm({ mem_mib: 256 });
  await vm.startSession(["python3", "-c", SERVERS], { id: "servers" });
  await (await vm.attachSession("servers")).next(); // that they listen
});

afterAll(async () => {
  await vm.delete();
});

const every = new Uint8Array(3 << 20).map((_, index) => (index * 31) ^ (index >> 8));

describe("a connection to a port", () => {
  it("carries bytes in both directions, more than are ever under way, and ends one direction at a time", async () => {
    await using socket = await vm.connect(7);
    const back = new Response(socket.readable).arrayBuffer();
    const writer = socket.writable.getWriter();
    await writer.write(every);
    await writer.close();
    const expected = new Uint8Array([...every, ...new TextEncoder().encode("over")]);
    expect(Buffer.compare(new Uint8Array(await back), expected)).toBe(0);
  });

  it("is read no faster than its reader reads", async () => {
    const proxy = await Proxy.of(server.url);
    try {
      const socket = await new MicroVM(vm.vmId, new BandSox({ baseUrl: proxy.url })).connect(19);
      const reader = socket.readable.getReader();
      let read = 0;
      for (let round = 1; round < 4; round++) {
        while (read < round * 1_000_000) read += (await reader.read()).value?.length ?? 0;
        await vm.execCommand("true"); // as long as it takes to hear of the guest otherwise
        expect(proxy.received - read).toBeLessThan((1 << 20) + (64 << 10));
      }
      await reader.cancel();
      const said = await vm.attachSession("servers", { stdout: "listening\n".length });
      expect(Buffer.from((await said.next()).value?.data ?? []).toString()).toBe("left\n"); // closed here is closed there
      said.close();
    } finally {
      proxy.close();
    }
  });

  it("is written no faster than the program there reads, and ends with its signal", async () => {
    const controller = new AbortController();
    const socket = await vm.connect(9, {}, { signal: controller.signal });
    const writing = socket.writable.getWriter().write(new Uint8Array(64 << 20));
    const reading = socket.readable.getReader().read();
    const failed = [expect(writing).rejects.toThrow("enough"), expect(reading).rejects.toThrow("enough")];
    await vm.execCommand("true");
    controller.abort(new Error("enough"));
    await Promise.all(failed);
  });

  it("fails as one that is broken off there", async () => {
    const socket = await vm.connect(8);
    await socket.writable.getWriter().write(new Uint8Array(1));
    await expect(socket.readable.getReader().read()).rejects.toMatchObject({ name: "GuestError", code: "connection_reset" });
  });

  it("does not come about where nobody listens, and nowhere by a name", async () => {
    await expect(vm.connect(10)).rejects.toMatchObject({ name: "GuestError", code: "connection_refused" });
    await expect(vm.connect(7, { host: "name.example" })).rejects.toMatchObject({ code: "invalid_request" });
    await expect(vm.connect(0)).rejects.toMatchObject({ code: "invalid_request" });
    await expect(bandsox.getVm("none")).resolves.toBeNull();
    await expect(new MicroVM("none", bandsox).connect(7)).rejects.toMatchObject({ code: "vm_not_found" });
  });

  it("is over when it was closed", async () => {
    const socket = await vm.connect(7);
    socket.close();
    await expect(socket.readable.getReader().read()).rejects.toMatchObject({ code: "conflict" });
    await expect(socket.writable.getWriter().write(new Uint8Array(1))).rejects.toMatchObject({ code: "conflict" });
  });
});
