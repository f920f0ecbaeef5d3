/// <reference lib="esnext.disposable" preserve="true" />
/** One machine. */

import { type BandSox } from "./client.js";
import { NotFound } from "./errors.js";
import { Guest } from "./guest.js";
import { type CallOptions, type ForkOptions, type LongCallOptions, type SnapshotOptions, type VmInfo } from "./types.js";

/**
 * A handle of a VM. The VM goes on when the program ends, unless it was declared with `await using`, which deletes it at the end of its block:
 *
 * ```ts
 * await using vm = await bandsox.createVm({ image: "python:3-alpine" });
 * ```
 */
export class MicroVM extends Guest {
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
