/// <reference lib="esnext.disposable" preserve="true" />
/** One machine. */

import { type BandSox } from "./client.js";
import { NotFound } from "./errors.js";
import { Networked } from "./network.js";
import {
  type CallOptions,
  type Checkpoint,
  type DeadlineOptions,
  type Deadlines,
  type FileDifference,
  type ForkOptions,
  type LongCallOptions,
  type SnapshotOptions,
  type VmInfo,
  type WatchedCallOptions,
} from "./types.js";

/**
 * A handle of a VM. The VM goes on when the program ends, unless it was declared with `await using`, which deletes it at the end of its block:
 *
 * ```ts
 * await using vm = await bandsox.createVm({ image: "python:3-alpine" });
 * ```
 */
export class MicroVM extends Networked {
  /** What was known of it when it was last asked for. */
  info: VmInfo | null;
  readonly #bandsox: BandSox;

  constructor(vmId: string, bandsox: BandSox, info: VmInfo | null = null) {
    super(vmId, bandsox.connection);
    this.info = info;
    this.#bandsox = bandsox;
  }

  /** Start it again after a stop. */
  async start(call?: CallOptions): Promise<void> {
    await this.#bandsox.startVm(this.vmId, call);
  }

  /** Power it off; its disk stays. */
  async stop(call?: CallOptions): Promise<void> {
    await this.#bandsox.stopVm(this.vmId, call);
  }

  /** Stop its CPUs; its memory stays. */
  async pause(call?: CallOptions): Promise<void> {
    await this.#bandsox.pauseVm(this.vmId, call);
  }

  /** Let it go on after a pause. */
  async resume(call?: CallOptions): Promise<void> {
    await this.#bandsox.resumeVm(this.vmId, call);
  }

  /** Write its memory to the disk and end its hypervisor; {@link resume}, or with `auto_resume` the next operation, lets it go on. */
  async hibernate(call?: WatchedCallOptions): Promise<void> {
    await this.#bandsox.hibernateVm(this.vmId, call);
  }

  /** Change how long it may run, now and at later starts; what is left out stays as it is, and null is no limit. */
  async setDeadlines(deadlines: DeadlineOptions, call?: CallOptions): Promise<Deadlines> {
    return this.connection.call("put", "/api/vms/{vm}/deadlines", { ...this.machine, body: deadlines }, call);
  }

  /** Kill it, and remove everything it owns. */
  async delete(call?: CallOptions): Promise<void> {
    await this.#bandsox.deleteVm(this.vmId, call);
  }

  /** Delete it, if it is there. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.delete().catch((error: unknown) => {
      if (!(error instanceof NotFound)) throw error;
    });
  }

  /** Save it; afterwards it is as it was before. Returns the snapshot's name. */
  async snapshot(options: SnapshotOptions = {}, call?: LongCallOptions): Promise<string> {
    return this.#bandsox.snapshotVm(this.vmId, options, call);
  }

  /** Make clones of it, which share its memory until they write to it. */
  async fork(options: ForkOptions = {}, call?: LongCallOptions): Promise<MicroVM[]> {
    return this.#bandsox.forkVm(this.vmId, options, call);
  }

  // ── its timeline ──────────────────────────────────────────────────────────────────────────────

  /** Its checkpoints, oldest first. Each is a snapshot as well, of which VMs can be restored by its id. */
  async checkpoints(call?: CallOptions): Promise<Checkpoint[]> {
    return this.connection.call("get", "/api/vms/{vm}/checkpoints", this.machine, call);
  }

  /** Keep this instant of it, running or paused, as a place to go back to; it goes on. Without a label it gets a number. */
  async checkpoint(label?: string, call?: LongCallOptions): Promise<Checkpoint> {
    return this.connection.make("/api/vms/{vm}/checkpoints", { ...this.machine, body: { label: label ?? null } }, call);
  }

  /** Delete one of its checkpoints; the others stay as they are. */
  async removeCheckpoint(label: string, call?: CallOptions): Promise<void> {
    const path = { ...this.machine.path, label };
    await this.connection.call("delete", "/api/vms/{vm}/checkpoints/{label}", { path }, { ...call, patient: true });
  }

  /** Go back to a checkpoint, whatever it does now. What has changed since is lost; all checkpoints stay. */
  async rewind(label: string, call?: WatchedCallOptions): Promise<void> {
    await this.connection.work("/api/vms/{vm}/rewind", { ...this.machine, body: { label } }, call);
  }

  /** The files that differ between two of its checkpoints, or between one and now. Their disks are compared, which takes another machine. */
  async diff(
    before: string,
    after?: string | null,
    options: { limit?: number } = {},
    call?: WatchedCallOptions,
  ): Promise<FileDifference[]> {
    const body = { before, after: after ?? null, ...options };
    return (await this.connection.work("/api/vms/{vm}/diff", { ...this.machine, body }, call)).differences;
  }

  /** All that is known of it now. */
  async getInfo(call?: CallOptions): Promise<VmInfo> {
    const info = await this.#bandsox.getVmInfo(this.vmId, call);
    if (info === null) throw new NotFound("vm_not_found", `no VM has the id ${this.vmId}`, { statusCode: 404 });
    this.info = info;
    return info;
  }

  /** Give it another name. */
  async rename(name: string, call?: CallOptions): Promise<void> {
    await this.#bandsox.renameVm(this.vmId, name, call);
    if (this.info !== null) this.info = { ...this.info, name };
  }

  /** Replace its metadata. */
  async updateMetadata(metadata: Record<string, unknown>, call?: CallOptions): Promise<Record<string, unknown>> {
    await this.#bandsox.updateVmMetadata(this.vmId, metadata, call);
    if (this.info !== null) this.info = { ...this.info, metadata };
    return metadata;
  }

  /** Its address as of when `info` was asked for; null where it has no network. */
  getGuestIp(): string | null {
    return this.info?.network_config?.guest_ip ?? null;
  }
}
