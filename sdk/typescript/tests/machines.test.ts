import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { BandSox, type FileChange, InvalidRequest, type MicroVM, NotFound } from "../src/index.js";
import { Proxy } from "./proxy.js";

const bandsox = new BandSox({ baseUrl: inject("server").url });
let vm: MicroVM;

beforeAll(async () => {
  vm = await bandsox.createVm({ mem_mib: 256, metadata: { suite: "machines" } });
});

afterAll(async () => {
  await vm.delete();
});

describe("a machine", () => {
  it("runs when it was made, and is known by id, by the beginning of it and by name", async () => {
    expect(vm.info).toMatchObject({ id: vm.vmId, status: "running", mem_mib: 256, metadata: { suite: "machines" } });
    for (const known of [vm.vmId, vm.vmId.slice(0, 12), vm.info?.name ?? ""]) expect((await bandsox.getVm(known))?.vmId).toBe(vm.vmId);
  });

  it("is listed, by what its metadata says too", async () => {
    const ids = (await bandsox.listVms({ metadata_equals: { suite: "machines" } })).map((info) => info.id);
    expect(ids).toEqual([vm.vmId]);
    expect(await bandsox.listProjects({ limit: 0 })).toEqual([]);
  });

  it("is paused, goes on, is renamed and described anew", async () => {
    await vm.pause();
    expect((await vm.getInfo()).status).toBe("paused");
    await vm.resume();
    expect((await vm.getInfo()).status).toBe("running");
    await vm.rename(`${vm.vmId}-renamed`);
    expect(await vm.updateMetadata({ suite: "machines", stage: 2 })).toEqual({ suite: "machines", stage: 2 });
    expect(await vm.getInfo()).toMatchObject({ name: `${vm.vmId}-renamed`, metadata: { stage: 2 } });
  });
});

describe("what cannot be", () => {
  it("is null where it is asked for, and an error with a code where it is needed", async () => {
    expect(await bandsox.getVmInfo("none")).toBeNull();
    expect(await bandsox.getVm("none")).toBeNull();
    await expect(bandsox.pauseVm("none")).rejects.toMatchObject({ name: "NotFound", code: "vm_not_found", statusCode: 404 });
    await expect(bandsox.pauseVm("none")).rejects.toBeInstanceOf(NotFound);
    await expect(bandsox.createVm({ vcpu: 0 })).rejects.toMatchObject({ code: "invalid_request", statusCode: 422 });
  });

  it.each(["", ".", ".."])("is no name: %j", async (name) => {
    await expect(bandsox.deleteVm(name)).rejects.toBeInstanceOf(InvalidRequest);
  });

  it.each(["a?b", "a#b", "ä%2f", "a/b", "../../auth/keys", "name/sessions/other"])("is a name like any other: %j", async (name) => {
    await expect(bandsox.deleteVm(name)).rejects.toMatchObject({ code: "vm_not_found" });
  });
});

describe("copies of a machine", () => {
  it("are clones that share what it was", async () => {
    await vm.writeFile({ path: "/run/state", content: "before" });
    const clones = await vm.fork({ count: 2, metadata: { suite: "clones" } });
    try {
      expect(clones.map((clone) => clone.info?.restored_from)).toEqual([vm.vmId, vm.vmId]);
      expect(await Promise.all(clones.map(async (clone) => clone.readFile("/run/state")))).toEqual(["before", "before"]);
    } finally {
      await Promise.all(clones.map(async (clone) => clone.delete()));
    }
  });

  it("are made of snapshots, which are named, described and deleted", async () => {
    const steps = new Set<string>();
    const name = await vm.snapshot({ name: `${vm.vmId}-saved`, metadata: { stage: 1 } }, { onProgress: ({ task }) => steps.add(task) });
    expect(name).toBe(`${vm.vmId}-saved`);
    expect(steps.size).toBeGreaterThan(0);
    const known = await bandsox.getSnapshotInfo(name);
    expect(known).toMatchObject({ snapshot_name: name, source_vm_id: vm.vmId, metadata: { stage: 1 } });
    const id = known?.id ?? "";
    await bandsox.renameSnapshot(id, `${name}-2`);
    expect(await bandsox.updateSnapshotMetadata(id, { stage: 2 })).toEqual({ stage: 2 });
    expect(await bandsox.listSnapshots({ source_vm_id: vm.vmId, metadata_equals: { stage: 2 } })).toMatchObject([
      { id, snapshot_name: `${name}-2` },
    ]);
    {
      await using restored = await bandsox.restoreVm(id, { env_vars: { A: "b" } });
      expect((await restored.execCommand("echo $A")).stdout).toBe("b\n");
    }
    const { digest, size, stream } = await bandsox.exportSnapshot(id, { image: false });
    expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/);
    const carried = await new Response(stream).blob();
    expect(carried.size).toBe(size);
    expect(await bandsox.compressSnapshot(id)).toMatchObject({ id, compressed: true });
    const told: number[] = [];
    const taken = await bandsox.importSnapshot(carried.stream(), { name: `${name}-3`, onProgress: (bytes) => told.push(bytes) });
    expect(taken).toMatchObject({ snapshot_name: `${name}-3`, source_vm_id: vm.vmId });
    expect(told.at(-1)).toBe(size);
    await bandsox.deleteSnapshot(taken.id);
    await expect(bandsox.importSnapshot("no archive")).rejects.toMatchObject({ statusCode: 422 });
    await expect(bandsox.pushSnapshot(id, "127.0.0.1:1/nobody/there:1", { base: "none" })).rejects.toMatchObject({
      code: "snapshot_not_found",
    });
    await expect(bandsox.pullSnapshot("127.0.0.1:1/nobody/there:1")).rejects.toMatchObject({ code: "registry_unavailable" });
    await bandsox.deleteSnapshot(id);
    expect(await bandsox.getSnapshotInfo(id)).toBeNull();
  });
});

describe("a template", () => {
  it("is made once, and VMs of it are made, or stand ready in a pool", async () => {
    const steps = new Set<string>();
    const wanted = { setup: ["echo made > /root/made"], files: { "/root/file": { content: "given" } }, mem_mib: 256, disk_size_mib: 64 };
    const template = await bandsox.createTemplate(wanted, { onProgress: ({ task }) => steps.add(task) });
    expect(steps).toContain("setup");
    expect((await bandsox.createTemplate(wanted)).id).toBe(template.id);
    expect((await bandsox.listTemplates()).map((each) => each.id)).toContain(template.id);
    expect(await bandsox.getTemplate("0000000000000000")).toBeNull();
    const pool = await bandsox.createPool(template.id, 1);
    expect(pool).toMatchObject({ template: template.id, size: 1, ready: 1, failure: null });
    {
      await using taken = await bandsox.takeVm(pool.id, { env_vars: { A: "b" }, metadata: { suite: "pool" } });
      expect((await taken.execCommand("cat /root/made /root/file; echo $A")).stdout).toBe("made\ngivenb\n");
    }
    expect(await bandsox.resizePool(pool.id, 2)).toMatchObject({ size: 2 });
    expect((await bandsox.listPools()).map((each) => each.id)).toEqual([pool.id]);
    await bandsox.deletePool(pool.id);
    expect(await bandsox.getPool(pool.id)).toBeNull();
    expect(await bandsox.pruneTemplates(1e6)).toEqual([]);
    await bandsox.removeTemplate(template.id);
    expect(await bandsox.getTemplate(template.id)).toBeNull();
  });
});

describe("a network", () => {
  it("has a policy from the beginning, or later, and tells where a machine went", async () => {
    expect(vm.info?.network_policy).toBeNull();
    expect(await vm.networkPolicy()).toBeNull();
    await expect(vm.networkLog()).rejects.toMatchObject({ code: "conflict" });
    expect(await vm.setNetworkPolicy({ allow: ["api.example.com"], connections: 7 })).toMatchObject({
      allow: ["api.example.com"],
      connections: 7,
    });
    await expect(vm.setNetworkPolicy({ allow: ["http://wrong/"] })).rejects.toMatchObject({ code: "invalid_request" });
    expect(await vm.setNetworkPolicy("none")).toEqual((await bandsox.networkPresets()).none);
    expect((await vm.getInfo()).network_policy).toEqual(await vm.networkPolicy());
    if (vm.info?.network_config === null) return; // this host gives no network
    const controller = new AbortController();
    const events = await vm.followNetworkLog({ signal: controller.signal });
    await vm.execPython({ code: "import socket\nsocket.socket().connect_ex(('192.0.2.77', 81))" });
    for await (const event of events) {
      if (event.port !== 81) continue;
      expect(event).toMatchObject({ event: "refused", protocol: "tcp", address: "192.0.2.77" });
      break;
    }
    controller.abort();
    expect(await vm.networkLog({ verdict: "refused", limit: 1 })).toMatchObject([{ verdict: "refused" }]);
    expect((await vm.networkStats()).refused).toBeGreaterThan(0);
    expect(await vm.learnedPolicy()).toMatchObject({ allow: [] });
  });
});

describe("secrets", () => {
  it("are what a machine is made with, and a mistake does not repeat the value", async () => {
    expect(await vm.secrets()).toEqual([]);
    await expect(vm.setSecret("KEY", "a value of no secret")).rejects.toMatchObject({ code: "conflict" });
    await expect(vm.setSecret("KEY", null)).rejects.toMatchObject({ code: "conflict" });
    const wrong = bandsox.createVm({ secrets: { KEY: { value: "sesame\nopen", hosts: ["api.example.com"] } } });
    await expect(wrong).rejects.toMatchObject({ code: "invalid_request", message: expect.not.stringContaining("sesame") as string });
  });
});

describe("a request with a key", () => {
  it("is carried out once, though its answer is lost twice", async () => {
    const proxy = await Proxy.of(inject("server").url);
    try {
      proxy.cuts = [1, 1];
      const name = `${vm.vmId}-once`;
      const saved = await new BandSox({ baseUrl: proxy.url }).snapshotVm(vm.vmId, { name });
      expect(saved).toBe(name);
      expect((await bandsox.listSnapshots({ source_vm_id: vm.vmId })).filter((each) => each.snapshot_name === name)).toHaveLength(1);
      await bandsox.deleteSnapshot(name);
    } finally {
      proxy.close();
    }
  });

  it("gives what was made to a program that asks again", async () => {
    const call = { idempotencyKey: `key-of-${vm.vmId}` };
    const first = await vm.fork({ name: `${vm.vmId}-fork` }, call);
    const again = await vm.fork({ name: `${vm.vmId}-fork` }, call);
    expect(again.map((clone) => clone.vmId)).toEqual(first.map((clone) => clone.vmId));
    expect(await bandsox.getRequest(call.idempotencyKey)).toMatchObject({ status: "done" });
    expect(await bandsox.getRequest("never used")).toBeNull();
    await expect(vm.fork({ name: "another" }, call)).rejects.toMatchObject({ code: "conflict" });
    await first[0]?.delete();
    await first[0]?.[Symbol.asyncDispose](); // no error where it is gone
  });
});

describe("what happens", () => {
  it("is told as it happens, over a connection that is lost, and nothing is missing", async () => {
    const proxy = await Proxy.of(inject("server").url);
    const controller = new AbortController();
    try {
      const events = new BandSox({ baseUrl: proxy.url }).events({}, { signal: controller.signal });
      const mine = async (): Promise<string | null | undefined> => {
        for (;;) {
          const { value } = await events.next();
          if (value.subject === vm.vmId) return `${value.type} ${value.status}`;
        }
      };
      expect((await events.next()).value.type).toBe("hello");
      await vm.pause();
      expect(await mine()).toBe("vm.status paused");
      proxy.cut();
      await vm.resume();
      expect(await mine()).toBe("vm.status running");
      const waiting = expect(events.next()).rejects.toThrow("enough");
      controller.abort(new Error("enough"));
      await waiting;
    } finally {
      proxy.close();
    }
  });

  it("is told of files, until one looks no longer", async () => {
    await vm.makeDir("/srv/watched");
    const controller = new AbortController();
    const changes = await vm.watch("/srv/watched", {}, { signal: controller.signal });
    await vm.execCommand("touch /srv/watched/new && mv /srv/watched/new /srv/watched/old");
    const seen: FileChange[] = [];
    for await (const change of changes) if (seen.push(change) && change.type === "moved") break;
    expect(seen[0]).toMatchObject({ type: "created", path: "/srv/watched/new" });
    expect(seen.at(-1)).toMatchObject({ path: "/srv/watched/new", to: "/srv/watched/old" });
    const others = await vm.watch("/srv/watched", {}, { signal: controller.signal });
    const waiting = expect(others.next()).rejects.toThrow("enough");
    controller.abort(new Error("enough"));
    await waiting;
  });

  it("is told of the console", async () => {
    const shown = vm.followConsole();
    expect((await shown.next()).value).toEqual(expect.any(String));
    await shown.return();
    expect(await vm.console()).toEqual(expect.any(String));
  });
});

describe("ports of a machine", () => {
  it("are asked over HTTP, and published on the server's host", async () => {
    await vm.makeDir("/srv/www");
    await vm.writeFile({ path: "/srv/www/index.txt", content: "served" });
    await vm.startSession("exec python3 -u -m http.server 8123 --directory /srv/www", { id: "www" });
    const listening = await vm.attachSession("www");
    await listening.next(); // that it serves
    expect(await vm.sendHttpRequest({ port: 8123, path: "/index.txt" })).toMatchObject({ status_code: 200, body: "served" });
    const url = await vm.expose(8123);
    expect(await (await fetch(`${url}/index.txt`)).text()).toBe("served");
    expect(await vm.ports()).toMatchObject([{ guest_port: 8123, url, listening: true }]);
    expect(await (await fetch(`${await vm.linkToPort(8123)}index.txt`)).text()).toBe("served");
    await vm.unexpose(8123);
    expect(await vm.ports()).toEqual([]);
    await vm.killSession("www");
    await listening.wait();
    await expect(vm.sendHttpRequest({ port: 8123 })).rejects.toMatchObject({ name: "GuestError", code: "connection_refused" });
  });
});

describe("what a machine and its host say of themselves", () => {
  it("is that it was made without a balloon and a metadata service", async () => {
    const conflict = expect.objectContaining({ code: "conflict" }) as Error;
    await expect(vm.balloon()).rejects.toEqual(conflict);
    await expect(vm.setBalloon(64)).rejects.toEqual(conflict);
    await expect(vm.setMmds({ a: 1 })).rejects.toEqual(conflict);
  });

  it("is known", async () => {
    expect(await vm.guestInfo()).toMatchObject({ kernel: expect.any(String) as string, uptime_ms: expect.any(Number) as number });
    expect(await vm.metrics({ processes: true })).toMatchObject({ cpu_count: 1, processes: expect.arrayContaining([]) as unknown[] });
    expect(await vm.waitForAgent()).toBe(true);
    expect(vm.getGuestIp()).toBe(vm.info?.network_config?.guest_ip ?? null);
    expect(await vm.stat("/etc/hostname")).toMatchObject({ type: "file", uid: 0 });
    expect(await bandsox.version()).toMatch(/^\d+\./);
    expect((await bandsox.doctor()).map((finding) => finding.subject)).toContain("choice");
    expect(await bandsox.cleanup()).toMatchObject({ files: expect.any(Number) as number });
    expect(await bandsox.host()).toMatchObject({ cpus: expect.any(Number) as number });
  });
});

describe("images", () => {
  it("are listed, named and fetched", async () => {
    const image = await bandsox.pullImage("python:3-alpine", "never");
    await bandsox.tagImage("python:3-alpine", "sdk:test");
    expect((await bandsox.listImages()).find(({ id }) => id === image.id)?.references).toContainEqual(expect.stringContaining("sdk:test"));
    await bandsox.removeImage("sdk:test");
    await expect(bandsox.pullImage("sdk:test", "never")).rejects.toMatchObject({ code: "image_not_found" });
  });

  it("are built of Dockerfiles, with the files that these name", async () => {
    const text = "FROM python:3-alpine\nARG WHO\nCOPY greeting /srv/\nENV WHO=$WHO\n";
    const options = { context: { greeting: "hello" }, build_args: { WHO: "world" }, mem_mib: 256, metadata: { built: true } };
    await using built = await bandsox.createVmFromDockerfile(text, options);
    expect(built.info?.metadata).toEqual({ built: true });
    expect((await built.execCommand("echo $(cat /srv/greeting) $WHO")).stdout).toBe("hello world\n");
  });
});

describe("a saved VM", () => {
  it("takes no memory, and goes on where it was", async () => {
    await vm.writeFile({ path: "/dev/shm/kept", content: "in memory" });
    const deadlines = await vm.setDeadlines({ ttl: 86_400, on_expiry: "stop" });
    expect(deadlines).toMatchObject({ idle_timeout: null, on_expiry: "stop", auto_resume: false });
    expect(deadlines.expires_at).toBe((await vm.getInfo()).expires_at);
    expect(await vm.setDeadlines({ ttl: null })).toMatchObject({ expires_at: null, on_expiry: "stop" });
    await vm.hibernate();
    expect(await vm.getInfo()).toMatchObject({ status: "saved", pid: null });
    await expect(vm.readFile("/dev/shm/kept")).rejects.toMatchObject({ code: "conflict" });
    await vm.resume();
    expect(await vm.readFile("/dev/shm/kept")).toBe("in memory");
  });
});

describe("a timeline", () => {
  it("has places that a machine goes back to, and tells what has changed since", async () => {
    const label = "before/the change";
    await vm.writeFile({ path: "/root/kept", content: "then" });
    expect(await vm.checkpoint(label)).toMatchObject({ label, after: null });
    try {
      await vm.writeFile({ path: "/root/kept", content: "now" });
      const steps = new Set<string>();
      const found = await vm.diff(label, null, { limit: 100 }, { onProgress: ({ task }) => steps.add(task) });
      expect(found.find(({ path }) => path === "/root/kept")).toMatchObject({ change: "modified", type: "file" });
      expect([...steps]).toEqual(["compare"]);
      await vm.rewind(label);
      expect(await vm.readFile("/root/kept")).toBe("then");
      expect((await vm.checkpoints()).map((each) => each.label)).toEqual([label]);
    } finally {
      await vm.removeCheckpoint(label);
    }
    await expect(vm.rewind(label)).rejects.toMatchObject({ code: "checkpoint_not_found" });
  });
});

describe("the life of a machine", () => {
  it("has stops, starts and wanted states", async () => {
    await bandsox.updateVmStatus(vm.vmId, "paused");
    expect((await vm.getInfo()).status).toBe("paused");
    await vm.stop();
    expect((await vm.getInfo()).status).toBe("stopped");
    await expect(vm.pause()).rejects.toMatchObject({ statusCode: 409 });
    expect(await vm.waitForAgent()).toBe(false);
    await vm.start();
    expect((await vm.execCommand("cat /run/state; cat /srv/www/index.txt")).stdout).toBe("served");
  });
});
