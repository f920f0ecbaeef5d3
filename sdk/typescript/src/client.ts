/** The front door: what a server has, and what can be done with it. */

import { Connection } from "./connection.js";
import { NotFound } from "./errors.js";
import { MicroVM } from "./microvm.js";
import {
  type AuthCheckResult,
  type AuthKeysResult,
  type BandSoxConfig,
  type CallOptions,
  type CreateApiKeyOptions,
  type CreateApiKeyResult,
  type CreateVmOptions,
  type ImageInfo,
  type ListVmsOptions,
  type LoginResult,
  type VmInfo,
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
export class BandSox {
  /** @internal */
  readonly connection: Connection;

  constructor(config: BandSoxConfig) {
    this.connection = new Connection(config);
  }

  // ── machines ──────────────────────────────────────────────────────────────────────────────────

  /** Make a VM and start it. It runs, and its agent answers, when this returns; an image that is not there is fetched before. */
  async createVm(options: CreateVmOptions = {}, call?: CallOptions): Promise<MicroVM> {
    const { id } = await this.connection.call("post", "/api/vms", { body: options }, { ...call, patient: true });
    return this.#handle(id, call);
  }

  /** The VMs, newest first. */
  async listVms(options: ListVmsOptions = {}, call?: CallOptions): Promise<VmInfo[]> {
    const { metadata_equals, ...rest } = options;
    const wanted = metadata_equals === undefined || metadata_equals === null ? {} : { metadata_equals: JSON.stringify(metadata_equals) };
    return (await this.connection.call("get", "/api/vms", { query: { ...rest, ...wanted } }, call)) as VmInfo[];
  }

  /** The same as {@link listVms}, by an earlier name. */
  async listProjects(options: ListVmsOptions = {}, call?: CallOptions): Promise<VmInfo[]> {
    return this.listVms(options, call);
  }

  /** All that is known of a VM; null where there is none. */
  async getVmInfo(vm: string, call?: CallOptions): Promise<VmInfo | null> {
    try {
      return (await this.connection.call("get", "/api/vms/{vm}", { path: { vm } }, call)) as VmInfo;
    } catch (error) {
      if (error instanceof NotFound) return null;
      throw error;
    }
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

  /** Let a paused VM go on. */
  async resumeVm(vm: string, call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/vms/{vm}/resume", { path: { vm } }, call);
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

  async #handle(id: string, call?: CallOptions): Promise<MicroVM> {
    const info = await this.connection.call("get", "/api/vms/{vm}", { path: { vm: id } }, call);
    return new MicroVM(id, this, info as VmInfo);
  }

  // ── images ────────────────────────────────────────────────────────────────────────────────────

  /** The images that are on the server, newest first. */
  async listImages(call?: CallOptions): Promise<ImageInfo[]> {
    return this.connection.call("get", "/api/images", {}, call);
  }

  /** Fetch an image: always, only when it is `missing`, or `never`, which tells whether it is there. */
  async pullImage(reference: string, policy: "always" | "missing" | "never" = "always", call?: CallOptions): Promise<ImageInfo> {
    return this.connection.call("post", "/api/images/pull", { body: { reference, policy } }, { ...call, patient: true });
  }

  /** Give an image that is there a further name. */
  async tagImage(reference: string, name: string, call?: CallOptions): Promise<ImageInfo> {
    return this.connection.call("post", "/api/images/tag", { body: { reference, name } }, call);
  }

  /** Remove a name of an image, and the image with its last name. */
  async removeImage(reference: string, options: { force?: boolean } = {}, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/images", { query: { reference, ...options } }, call);
  }

  // ── authentication ────────────────────────────────────────────────────────────────────────────

  /** Whether this client is known to the server, and whether clients need to be. */
  async authCheck(call?: CallOptions): Promise<AuthCheckResult> {
    return this.connection.call("get", "/api/auth/check", {}, call);
  }

  /** Get a session of a day for the password. This client's later requests carry it; a browser keeps it in a cookie as well. */
  async login(password: string, call?: CallOptions): Promise<LoginResult> {
    const session = await this.connection.call("post", "/api/auth/login", { body: { password } }, call);
    this.connection.token = session.token;
    return session;
  }

  /** End the session. */
  async logout(call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/auth/logout", {}, call);
    this.connection.token = undefined;
  }

  /** The keys, without what they are. */
  async listApiKeys(call?: CallOptions): Promise<AuthKeysResult[]> {
    const keys = await this.connection.call("get", "/api/auth/keys", {}, call);
    return keys.map((key) => ({ ...key, key_id: key.id }));
  }

  /** Make a key. */
  async createApiKey(name: string, options: CreateApiKeyOptions = {}, call?: CallOptions): Promise<CreateApiKeyResult> {
    return this.connection.call("post", "/api/auth/keys", { body: { name, ...options } }, call);
  }

  /** Have a key let nobody in any more. */
  async revokeApiKey(keyId: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/auth/keys/{key_id}", { path: { key_id: keyId } }, call);
  }
}
