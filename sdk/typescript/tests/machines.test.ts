import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { BandSox, InvalidRequest, type MicroVM, NotFound } from "../src/index.js";

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

  it.each(["", ".", "..", "a/b", "../../auth/keys", "name/sessions/other"])(
    "never leaves the place of a name in a path: %j",
    async (name) => {
      await expect(bandsox.deleteVm(name)).rejects.toBeInstanceOf(InvalidRequest);
    },
  );

  it.each(["a?b", "a#b", "ä%2f"])("is a name like any other: %j", async (name) => {
    await expect(bandsox.deleteVm(name)).rejects.toMatchObject({ code: "vm_not_found" });
  });
});
