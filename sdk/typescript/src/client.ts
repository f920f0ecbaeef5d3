/** The front door: what a server has, and what can be done with it. */

import { Connection, pause } from "./connection.js";
import { BandSoxError } from "./errors.js";
import { LINES, linesOf } from "./lines.js";
import { MicroVM } from "./microvm.js";
import { Server, orNull } from "./server.js";
import { archive } from "./tar.js";
import { type TerminalOptions, type TerminalSession } from "./terminal.js";
import { bodyOf, browserBody, inBrowser, released, sendFromBrowser } from "./transfer.js";
import {
  type BandSoxConfig,
  type CallOptions,
  type CreateTemplateOptions,
  type CreateVmOptions,
  type ExportSnapshotOptions,
  type ExportedSnapshot,
  type ImportSnapshotOptions,
  type ListVmsOptions,
  type CreateVmFromDockerfileOptions,
  type ForkOptions,
  type ListSnapshotsOptions,
  type LongCallOptions,
  type PoolInfo,
  type PrunedSnapshot,
  type PruneSnapshotsOptions,
  type RestoreVmOptions,
  type Retention,
  type RetentionOptions,
  type ServerEvent,
  type SnapshotInfo,
  type SnapshotOptions,
  type TakeVmOptions,
  type TemplateInfo,
  type UploadContent,
  type VmInfo,
  type WatchedCallOptions,
} from "./types.js";

/**
 * A server of BandSox. It holds no connection: nothing has to be closed.
 *
 * Wherever a method takes a VM it is an id, the beginning of an id, or a name. Every method is rejected with a {@link BandSoxError}, or with
 * the reason of its signal.
 *
 * @example
 * ```ts
 * const bandsox = new BandSox({ baseUrl: "http://127.0.0.1:8000" });
 * const vm = await bandsox.createVm({ image: "python:3-alpine" });
 * console.log((await vm.execCommand("uname -a")).stdout);
 * await vm.delete();
 * ```
 */
export class BandSox extends Server {
  constructor(config: BandSoxConfig) {
    super(new Connection(config));
  }

  // ── machines ──────────────────────────────────────────────────────────────────────────────────

  /** Make a VM and start it. It runs, and its agent answers, when this returns; an image that is not there is fetched before. */
  async createVm(options: CreateVmOptions = {}, call?: LongCallOptions): Promise<MicroVM> {
    const { id } = await this.connection.make("/api/vms", { body: options }, call);
    return this.#handle(id, call);
  }

  /** Build the image of a Dockerfile, given as text, and make a VM of it. */
  async createVmFromDockerfile(dockerfile: string, options: CreateVmFromDockerfileOptions = {}, call?: LongCallOptions): Promise<MicroVM> {
    const { id } = await this.connection.make("/api/vms/from-dockerfile", {}, call, buildForm(dockerfile, options));
    return this.#handle(id, call);
  }

  /** Make a VM that goes on from a snapshot; any number at once. */
  async restoreVm(snapshot: string, options: RestoreVmOptions = {}, call?: LongCallOptions): Promise<MicroVM> {
    const { id } = await this.connection.make("/api/snapshots/{snapshot}/restore", { path: { snapshot }, body: options }, call);
    return this.#handle(id, call);
  }

  /** Make clones of a running or paused VM, which goes on. They share its memory until they write to it. */
  async forkVm(vm: string, options: ForkOptions = {}, call?: LongCallOptions): Promise<MicroVM[]> {
    const { vms } = await this.connection.make("/api/vms/{vm}/fork", { path: { vm }, body: options }, call);
    return vms.map((info) => new MicroVM(info.id, this, info as VmInfo));
  }

  /** The VMs, newest first. */
  async listVms(options: ListVmsOptions = {}, call?: CallOptions): Promise<VmInfo[]> {
    return (await this.connection.call("get", "/api/vms", { query: asQuery(options) }, call)) as VmInfo[];
  }

  /** The same as {@link listVms}, by an earlier name. */
  async listProjects(options: ListVmsOptions = {}, call?: CallOptions): Promise<VmInfo[]> {
    return this.listVms(options, call);
  }

  /** All that is known of a VM; null where there is none. */
  async getVmInfo(vm: string, call?: CallOptions): Promise<VmInfo | null> {
    return orNull(async () => (await this.connection.call("get", "/api/vms/{vm}", { path: { vm } }, call)) as VmInfo);
  }

  /** A handle of a VM; null where there is none. */
  async getVm(vm: string, call?: CallOptions): Promise<MicroVM | null> {
    const info = await this.getVmInfo(vm, call);
    return info === null ? null : new MicroVM(info.id, this, info);
  }

  /** Start a VM again after a stop, with its disk as it was left. */
  async startVm(vm: string, call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/vms/{vm}/start", { path: { vm } }, { ...call, patient: true });
  }

  /** Power a VM off; its disk stays. */
  async stopVm(vm: string, call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/vms/{vm}/stop", { path: { vm } }, { ...call, patient: true });
  }

  /** Stop the CPUs of a VM; its memory stays. */
  async pauseVm(vm: string, call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/vms/{vm}/pause", { path: { vm } }, call);
  }

  /** Let a paused or saved VM go on. */
  async resumeVm(vm: string, call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/vms/{vm}/resume", { path: { vm } }, { ...call, patient: true });
  }

  /** Write a VM's memory to the disk and end its hypervisor. {@link resumeVm}, or with `auto_resume` the next operation, lets it go on. */
  async hibernateVm(vm: string, call?: WatchedCallOptions): Promise<void> {
    await this.connection.work("/api/vms/{vm}/hibernate", { path: { vm } }, call);
  }

  /** Kill a VM, and remove everything it owns. */
  async deleteVm(vm: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/vms/{vm}", { path: { vm } }, { ...call, patient: true });
  }

  /** Give a VM another name. */
  async renameVm(vm: string, name: string, call?: CallOptions): Promise<void> {
    await this.connection.call("put", "/api/vms/{vm}/name", { path: { vm }, body: { name } }, call);
  }

  /** Replace a VM's metadata. Returns what it has now. */
  async updateVmMetadata(vm: string, metadata: Record<string, unknown>, call?: CallOptions): Promise<Record<string, unknown>> {
    await this.connection.call("put", "/api/vms/{vm}/metadata", { path: { vm }, body: { metadata } }, call);
    return metadata;
  }

  /** Bring a VM into a status, from whichever it has. */
  async updateVmStatus(vm: string, status: "running" | "paused" | "stopped", call?: CallOptions): Promise<void> {
    await this.connection.call("put", "/api/vms/{vm}/status", { path: { vm }, body: { status } }, { ...call, patient: true });
  }

  // ── snapshots ─────────────────────────────────────────────────────────────────────────────────

  /** Save a running or paused VM, which then is as it was before. Returns the snapshot's name. */
  async snapshotVm(vm: string, options: SnapshotOptions = {}, call?: LongCallOptions): Promise<string> {
    return (await this.connection.make("/api/vms/{vm}/snapshot", { path: { vm }, body: options }, call)).snapshot_id;
  }

  /** The snapshots, newest first. */
  async listSnapshots(options: ListSnapshotsOptions = {}, call?: CallOptions): Promise<SnapshotInfo[]> {
    return (await this.connection.call("get", "/api/snapshots", { query: asQuery(options) }, call)) as SnapshotInfo[];
  }

  /** What is known of a snapshot; null where there is none. */
  async getSnapshotInfo(snapshot: string, call?: CallOptions): Promise<SnapshotInfo | null> {
    return orNull(
      async () => (await this.connection.call("get", "/api/snapshots/{snapshot}", { path: { snapshot } }, call)) as SnapshotInfo,
    );
  }

  /** Delete a snapshot; VMs that were restored from it go on. */
  async deleteSnapshot(snapshot: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/snapshots/{snapshot}", { path: { snapshot } }, { ...call, patient: true });
  }

  /** Replace a snapshot's metadata. Returns what it has now. */
  async updateSnapshotMetadata(snapshot: string, metadata: Record<string, unknown>, call?: CallOptions): Promise<Record<string, unknown>> {
    const request = { path: { snapshot }, body: { metadata } };
    return (await this.connection.call("put", "/api/snapshots/{snapshot}/metadata", request, call)) as Record<string, unknown>;
  }

  /** Give a snapshot another name. */
  async renameSnapshot(snapshot: string, name: string, call?: CallOptions): Promise<void> {
    await this.connection.call("put", "/api/snapshots/{snapshot}/name", { path: { snapshot }, body: { name } }, call);
  }

  /** Which snapshots are kept; those that are not go by themselves. */
  async snapshotRetention(call?: CallOptions): Promise<Retention> {
    return this.connection.call("get", "/api/retention", {}, call);
  }

  /**
   * Say which snapshots are kept, from now on: by age, by number, by name. Those stay that something needs: a VM, a template, another snapshot. This
   * takes the scope `admin`, and so does {@link pruneSnapshots}.
   */
  async setSnapshotRetention(kept: RetentionOptions, call?: CallOptions): Promise<Retention> {
    return this.connection.call("put", "/api/retention", { body: kept }, call);
  }

  /** Remove the snapshots that are too old or too many now; with `dry_run` tell which these are. */
  async pruneSnapshots(options: PruneSnapshotsOptions = {}, call?: CallOptions): Promise<PrunedSnapshot[]> {
    return this.connection.call("post", "/api/snapshots/prune", { body: options }, call);
  }

  /** Keep a snapshot that is not needed for now in less room. It can be restored as before; the first time takes longer. */
  async compressSnapshot(snapshot: string, call?: WatchedCallOptions): Promise<SnapshotInfo> {
    return (await this.connection.work("/api/snapshots/{snapshot}/compress", { path: { snapshot } }, call)) as SnapshotInfo;
  }

  /**
   * A snapshot with all that its VM needs, as a tar archive, for {@link importSnapshot} elsewhere. It begins once it has been packed. It holds
   * whatever was in the VM's memory.
   */
  async exportSnapshot(snapshot: string, options: ExportSnapshotOptions = {}, call?: CallOptions): Promise<ExportedSnapshot> {
    const request = { path: { snapshot }, query: options };
    const opened = await this.connection.open("get", "/api/snapshots/{snapshot}/export", request, { ...call, patient: true });
    const { headers } = opened.answer;
    return { digest: headers.get("x-digest") ?? "", size: Number(headers.get("content-length")), stream: released(opened) };
  }

  /** Take in a snapshot that was exported elsewhere, of any size. To take in the same once more gives the same. */
  async importSnapshot(content: UploadContent, options: ImportSnapshotOptions = {}, call?: CallOptions): Promise<SnapshotInfo> {
    const { onProgress, ...query } = options;
    const route = "/api/snapshots/import";
    if (inBrowser()) {
      const url = this.connection.url(route, { query });
      return (await sendFromBrowser(this.connection, "POST", url, browserBody(content), onProgress, call)) as SnapshotInfo;
    }
    const extras = { ...call, content: bodyOf(content, onProgress), patient: true };
    return (await this.connection.call("post", "/api/snapshots/import", { query }, extras)) as SnapshotInfo;
  }

  /** Have the server send a snapshot to a registry, `HOST/NAME:TAG`, with its own credentials. Takes the scope `admin`. Returns the digest. */
  async pushSnapshot(snapshot: string, reference: string, options: ExportSnapshotOptions = {}, call?: WatchedCallOptions): Promise<string> {
    const request = { path: { snapshot }, body: { reference, ...options } };
    return (await this.connection.work("/api/snapshots/{snapshot}/push", request, call)).digest;
  }

  /** Have the server take in a snapshot from a registry, with its own credentials. Takes the scope `admin`. */
  async pullSnapshot(reference: string, options: { name?: string | undefined } = {}, call?: WatchedCallOptions): Promise<SnapshotInfo> {
    return (await this.connection.work("/api/snapshots/pull", { body: { reference, ...options } }, call)) as SnapshotInfo;
  }

  // ── templates and warm pools ──────────────────────────────────────────────────────────────────

  /** The templates, oldest first. A VM of one is made with `image: "template:ID"`. */
  async listTemplates(call?: CallOptions): Promise<TemplateInfo[]> {
    return this.connection.call("get", "/api/templates", {}, call);
  }

  /** Set a VM up once, to start others from it; one that is there of the same image and set-up is given. */
  async createTemplate(options: CreateTemplateOptions = {}, call?: LongCallOptions): Promise<TemplateInfo> {
    return this.connection.make("/api/templates", { body: options }, call);
  }

  /** What is known of a template; null where there is none. */
  async getTemplate(template: string, call?: CallOptions): Promise<TemplateInfo | null> {
    return orNull(async () => this.connection.call("get", "/api/templates/{template}", { path: { template } }, call));
  }

  /** Delete a template; VMs that were made of it go on. */
  async removeTemplate(template: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/templates/{template}", { path: { template } }, { ...call, patient: true });
  }

  /** Delete the templates of which no VM was made for so many seconds. Returns which they were. */
  async pruneTemplates(unusedFor = 0, call?: CallOptions): Promise<TemplateInfo[]> {
    return this.connection.call("post", "/api/templates/prune", { body: { unused_for: unusedFor } }, { ...call, patient: true });
  }

  /** The warm pools, oldest first. */
  async listPools(call?: CallOptions): Promise<PoolInfo[]> {
    return this.connection.call("get", "/api/pools", {}, call);
  }

  /** Have paused VMs of a template stand ready. All of them do when this returns; the server keeps the pool filled until it is deleted. */
  async createPool(template: string, size = 2, call?: LongCallOptions): Promise<PoolInfo> {
    return this.connection.make("/api/pools", { body: { template, size } }, call);
  }

  /** What is known of a pool; null where there is none. */
  async getPool(pool: string, call?: CallOptions): Promise<PoolInfo | null> {
    return orNull(async () => this.connection.call("get", "/api/pools/{pool}", { path: { pool } }, call));
  }

  /** Have another number of VMs stand ready; those that are missing are made in the background. */
  async resizePool(pool: string, size: number, call?: CallOptions): Promise<PoolInfo> {
    return this.connection.call("put", "/api/pools/{pool}", { path: { pool }, body: { size } }, { ...call, patient: true });
  }

  /** Delete a pool; VMs that were taken from it go on. */
  async deletePool(pool: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/pools/{pool}", { path: { pool } }, { ...call, patient: true });
  }

  /** Get a VM of a pool, which runs. Where none stands ready, the next one is waited for. */
  async takeVm(pool: string, options: TakeVmOptions = {}, call?: LongCallOptions): Promise<MicroVM> {
    const { id } = await this.connection.make("/api/pools/{pool}/take", { path: { pool }, body: options }, call);
    return this.#handle(id, call);
  }

  // ── what happens ──────────────────────────────────────────────────────────────────────────────

  /**
   * What happens to VMs, snapshots and images, whichever program does it, from now on or behind the event with the id `after`. When the connection
   * is lost it is made again, and nothing is missing; it ends with its signal, or when the loop is left.
   */
  async *events(options: { after?: number | undefined } = {}, call?: CallOptions): AsyncGenerator<ServerEvent, never, undefined> {
    let after = options.after;
    for (let failures = 0; ; failures++) {
      try {
        const opened = await this.connection.open("get", "/api/events", { query: { after } }, { ...call, headers: { accept: LINES } });
        for await (const line of linesOf(released(opened))) {
          failures = 0;
          const event = line as unknown as ServerEvent;
          after = event.id;
          yield event;
        }
      } catch (error) {
        call?.signal?.throwIfAborted();
        if (error instanceof BandSoxError && !error.retryable) throw error;
      }
      await pause(Math.min(100 * 2 ** failures, 5000) * (0.5 + Math.random() / 2), call?.signal);
    }
  }

  async #handle(id: string, call?: CallOptions): Promise<MicroVM> {
    const info = await this.connection.call("get", "/api/vms/{vm}", { path: { vm: id } }, call);
    return new MicroVM(id, this, info as VmInfo);
  }

  /** Open a terminal in a VM. It connects by itself, now and whenever the connection is lost. */
  connectTerminal(vm: string, cols = 80, rows = 24, options: TerminalOptions = {}): TerminalSession {
    return new MicroVM(vm, this).connectTerminal(cols, rows, options);
  }
}

function asQuery<T extends { metadata_equals?: Record<string, unknown> | null | undefined }>(
  options: T,
): Omit<T, "metadata_equals"> & { metadata_equals: string | undefined } {
  const { metadata_equals: wanted, ...rest } = options;
  return { ...rest, metadata_equals: wanted === undefined || wanted === null ? undefined : JSON.stringify(wanted) };
}

/** A Dockerfile and its options as a form: what is no text is JSON, and the archive comes last, as it may be long. */
function buildForm(dockerfile: string, { context, ...options }: CreateVmFromDockerfileOptions): FormData {
  const form = new FormData();
  form.append("dockerfile", dockerfile);
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && value !== null) form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  if (context !== undefined) form.append("context", context instanceof Blob ? context : archive(Object.entries(context)), "context.tar");
  return form;
}
