/** VMs, and what runs in them. */

import { type CreateVmOptions, NotFound } from "bandsox";
import { ask, part } from "./http";
import { askWithProgress, follow, type Following } from "./progress";
import { bandsox } from "./sdk";
import type { Load, PortState, Session, Snapshot, Vm } from "./types";

const at = (vm: string, operation = "") => `/api/vms/${part(vm)}${operation}`;

export const vms = {
  list: () => bandsox.listVms(),
  /** What is known of a VM now. Throws NotFound where there is none. */
  get: async (vm: string): Promise<Vm> => {
    const found = await bandsox.getVmInfo(vm);
    if (found === null) throw new NotFound("vm_not_found", `no VM has the id or name ${vm}`, { remedy: "look for it in the table of VMs" });
    return found;
  },
  create: (wanted: CreateVmOptions, following: Following) => askWithProgress<{ id: string; name: string }>("/api/vms", wanted, following),
  start: (vm: string) => bandsox.startVm(vm),
  stop: (vm: string) => bandsox.stopVm(vm),
  pause: (vm: string) => bandsox.pauseVm(vm),
  resume: (vm: string) => bandsox.resumeVm(vm),
  delete: (vm: string) => bandsox.deleteVm(vm),
  rename: (vm: string, name: string) => bandsox.renameVm(vm, name),
  setMetadata: (vm: string, metadata: Record<string, unknown>) => bandsox.updateVmMetadata(vm, metadata),
  console: (vm: string, signal?: AbortSignal) => ask<{ console: string }>("GET", at(vm, "/console"), { signal }),
  followConsole: (vm: string, signal: AbortSignal) => follow<{ type: "output"; data: string }>(at(vm, "/console/follow"), signal),
  load: (vm: string, processes = false, signal?: AbortSignal) => ask<Load>("GET", at(vm, "/stats"), { query: { processes }, signal }),
};

export const sessions = {
  list: (vm: string) => ask<Session[]>("GET", at(vm, "/sessions")),
  start: (vm: string, command: object) => ask<{ id: string; pid: number }>("POST", at(vm, "/sessions"), { body: command }),
  signal: (vm: string, session: string, signal: number) => ask("POST", at(vm, `/sessions/${part(session)}/signal`), { body: { signal } }),
  forget: (vm: string, session: string) => ask("DELETE", at(vm, `/sessions/${part(session)}`)),
};

export const ports = {
  list: (vm: string) => ask<PortState[]>("GET", at(vm, "/ports")),
  publish: (vm: string, guestPort: number, hostPort: number) =>
    ask<{ url: string }>("POST", at(vm, "/ports"), { body: { guest_port: guestPort, host_port: hostPort } }),
  withdraw: (vm: string, guestPort: number) => ask("DELETE", at(vm, `/ports/${guestPort}`)),
};

const kept = (snapshot: string, operation = "") => `/api/snapshots/${part(snapshot)}${operation}`;

export const snapshots = {
  list: () => ask<Snapshot[]>("GET", "/api/snapshots"),
  take: (vm: string, name: string | null, following: Following) =>
    askWithProgress<{ snapshot_id: string }>(at(vm, "/snapshot"), { name }, following),
  fork: (vm: string, count: number, name: string | null, following: Following) =>
    askWithProgress<{ vms: Vm[] }>(at(vm, "/fork"), { count, name }, following),
  restore: (snapshot: string, wanted: { name?: string; cold: boolean }, following: Following) =>
    askWithProgress<{ id: string }>(kept(snapshot, "/restore"), wanted, following),
  rename: (snapshot: string, name: string) => ask("PUT", kept(snapshot, "/name"), { body: { name } }),
  setMetadata: (snapshot: string, metadata: Record<string, unknown>) => ask("PUT", kept(snapshot, "/metadata"), { body: { metadata } }),
  delete: (snapshot: string) => ask("DELETE", kept(snapshot)),
};
