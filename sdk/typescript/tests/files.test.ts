import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { BandSox, MicroVM } from "../src/index.js";
import { Proxy } from "./proxy.js";

const server = inject("server");
const bandsox = new BandSox({ baseUrl: server.url });
let vm: MicroVM;

beforeAll(async () => {
  vm = await bandsox.createVm({ mem_mib: 256 });
});

afterAll(async () => {
  await vm.delete();
});

const every = new Uint8Array(1 << 20).map((_, index) => (index * 31) ^ (index >> 8));

async function* pieces(count: number): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
  for (let index = 0; index < count; index++) {
    yield every;
    await Promise.resolve();
  }
}

async function digestOf(path: string): Promise<string> {
  return (await vm.execCommand(["sha256sum", path], 120)).stdout.slice(0, 64);
}

async function sha256(...parts: Uint8Array<ArrayBuffer>[]): Promise<string> {
  return Buffer.from(await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer())).toString("hex");
}

describe("small files", () => {
  it("are written, appended to, read and described", async () => {
    expect(await vm.writeFile({ path: "/srv/hello", content: "hällo\n" })).toMatchObject({ size: 7 });
    await vm.appendText("/srv/hello", "world\n");
    await vm.appendFile("/srv/hello", btoa("!\n"), "base64");
    expect(await vm.readFile("/srv/hello")).toBe("hällo\nworld\n!\n");
    expect(await vm.getFileInfo("/srv/hello")).toMatchObject({ size: 15, mode: expect.stringMatching(/^0o/) as string });
  });

  it("are listed, moved, protected and removed", async () => {
    await vm.makeDir("/srv/d/e");
    await vm.uploadFile("/srv/d/e/<img onerror=x>", "x", { mode: 0o600 });
    expect((await vm.listDir("/srv/d/e")).files).toMatchObject([{ name: "<img onerror=x>", is_file: true, size: 1, mode: "0o600" }]);
    await vm.renameFile("/srv/d/e/<img onerror=x>", "/srv/d/f");
    await vm.chmod("/srv/d/f", 0o755);
    expect((await vm.execCommand("stat -c %a /srv/d/f")).stdout).toBe("755\n");
    await vm.remove("/srv/d", { recursive: true });
    await expect(vm.getFileInfo("/srv/d")).rejects.toMatchObject({ code: "guest_file_not_found", statusCode: 404 });
  });
});

describe("files of any size", () => {
  it.each([
    ["text", () => "ä".repeat(1000), async () => sha256(new TextEncoder().encode("ä".repeat(1000)))],
    ["bytes", () => every, async () => sha256(every)],
    ["a buffer", () => every.buffer, async () => sha256(every)],
    ["a blob", () => new Blob([every, every]), async () => sha256(every, every)],
    ["a stream", () => new Blob([every, every, every]).stream(), async () => sha256(every, every, every)],
    ["an iteration", () => pieces(4), async () => sha256(every, every, every, every)],
  ])("are sent as %s, with progress", async (_, content, digest) => {
    const seen: number[] = [];
    const { size } = await vm.uploadFile("/srv/up", content(), { onProgress: (bytes) => seen.push(bytes) });
    expect(await digestOf("/srv/up")).toBe(await digest());
    expect(seen.at(-1)).toBe(size);
    await vm.uploadFile("/srv/up", content());
    expect(await digestOf("/srv/up")).toBe(await digest());
  });

  it("go on with an upload that broke off, and only from where it is", async () => {
    await vm.uploadFile("/srv/part", "one ");
    await vm.uploadFile("/srv/part", "two", { at: 4 });
    expect(await vm.readFile("/srv/part")).toBe("one two");
    await expect(vm.uploadFile("/srv/part", "three", { at: 4 })).rejects.toMatchObject({ code: "conflict", detail: { size: 7 } });
  });

  it("are read whole, in part and as a stream", async () => {
    await vm.uploadFile("/srv/down", new Blob([every, every]));
    expect(await sha256(await vm.downloadFile("/srv/down"))).toBe(await sha256(every, every));
    const part = new Uint8Array(await new Response(vm.readStream("/srv/down", { offset: 1000, length: 2000 })).arrayBuffer());
    expect(Buffer.compare(part, every.subarray(1000, 3000))).toBe(0);
    await expect(vm.downloadFile("/srv/none")).rejects.toMatchObject({ code: "guest_file_not_found" });
    expect((await vm.downloadFile("/dev/null")).length).toBe(0);
  });

  it("are no longer read when the signal says so", async () => {
    const controller = new AbortController();
    const reader = vm.readStream("/dev/zero", {}, { signal: controller.signal }).getReader();
    expect((await reader.read()).value?.length).toBeGreaterThan(0);
    controller.abort(new Error("enough"));
    await expect(drained(reader)).rejects.toThrow("enough");
  });

  it("fail with the guest's reason, however much was still to be sent", async () => {
    await expect(vm.uploadFile("/proc/none", pieces(64))).rejects.toMatchObject({ name: "GuestError" });
    await expect(new BandSox({ baseUrl: server.url }).getVm("none")).resolves.toBeNull();
  });
});

async function drained(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  while (!(await reader.read()).done);
}

describe("a connection that breaks off in the middle of a download", () => {
  let proxy: Proxy;

  beforeAll(async () => {
    proxy = await Proxy.of(server.url);
  });

  afterAll(() => {
    proxy.close();
  });

  function throughProxy(): MicroVM {
    proxy.cut(); // no connection of before is used
    return new MicroVM(vm.vmId, new BandSox({ baseUrl: proxy.url }));
  }

  it("is taken up again where it was", async () => {
    await vm.uploadFile("/srv/long", pieces(6));
    proxy.cuts = [500_000, 1_500_000];
    expect(await sha256(await throughProxy().downloadFile("/srv/long"))).toBe(await sha256(every, every, every, every, every, every));
    expect(proxy.cuts).toEqual([]);
  });

  it("fails where the file was changed meanwhile", async () => {
    await vm.uploadFile("/srv/changing", pieces(6));
    proxy.cuts = [500_000];
    const reader = throughProxy().readStream("/srv/changing").getReader();
    await reader.read();
    await vm.uploadFile("/srv/changing", "other");
    await expect(drained(reader)).rejects.toMatchObject({ code: "conflict" });
  });
});

describe("folders", () => {
  it("are sent in one request, whatever their files are called", async () => {
    const long = `${"long/".repeat(40)}name`;
    const files = { "a.txt": "a", "b/ä ö.bin": every, [long]: new Blob(["deep"]), empty: "", "/rooted": "r" };
    expect(await vm.uploadFolder(files, "/srv/folder")).toMatchObject({ entries: 5 });
    expect(await vm.readFile(`/srv/folder/${long}`)).toBe("deep");
    expect(await digestOf("/srv/folder/b/ä ö.bin")).toBe(await sha256(every));
    expect((await vm.execCommand("cd /srv/folder && find . -type f | wc -l && cat rooted a.txt empty")).stdout).toBe("5\nra");
  });

  it("cannot leave the place they are sent to", async () => {
    await vm.uploadFolder({ "../../escaped": "x" }, "/srv/inside").catch(() => undefined);
    expect((await vm.execCommand("test -e /escaped || test -e /srv/escaped")).exit_code).toBe(1);
  });

  it("come back as a tar archive", async () => {
    await vm.uploadFolder({ "x/y": "why" }, "/srv/tree");
    const archive = await new Response(await vm.downloadFolder("/srv/tree", { base: "top" })).arrayBuffer();
    await vm.uploadFile("/tmp/tree.tar", archive);
    expect((await vm.execCommand("tar -xOf /tmp/tree.tar top/x/y")).stdout).toBe("why");
  });
});
