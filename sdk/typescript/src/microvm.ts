/** One machine. */

import { type BandSox } from "./client.js";
import { NotFound } from "./errors.js";
import {
  type CallOptions,
  type ExecOptions,
  type ExecPythonOptions,
  type ExecPythonResult,
  type ExecResult,
  type FileInfo,
  type ListDirResult,
  type VmInfo,
  type WriteFileOptions,
  type WriteResult,
} from "./types.js";

/** A handle of a VM. */
export class MicroVM {
  /** Its id. */
  readonly vmId: string;
  /** What was known of it when it was last asked for. */
  info: VmInfo | null;
  readonly #bandsox: BandSox;
  readonly #path: { path: { vm: string } };

  constructor(vmId: string, bandsox: BandSox, info: VmInfo | null = null) {
    this.vmId = vmId;
    this.info = info;
    this.#bandsox = bandsox;
    this.#path = { path: { vm: vmId } };
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

  /**
   * Run a command to its end.
   *
   * @param command for the image's shell, or as a list of a program and its arguments, which no shell reads.
   * @param options or only the seconds after which it is killed.
   * @throws Timeout: it was killed, with the code `command_timeout`.
   */
  async execCommand(command: string | readonly string[], options: number | ExecOptions = {}, call?: CallOptions): Promise<ExecResult> {
    const given = typeof options === "number" ? { timeout: options } : options;
    const program = typeof command === "string" ? { command } : { argv: [...command] };
    return this.#bandsox.connection.call(
      "post",
      "/api/vms/{vm}/exec",
      { ...this.#path, body: { ...program, ...given } },
      { ...call, patient: true },
    );
  }

  /** Run Python code in a fresh interpreter of the image. */
  async execPython(options: ExecPythonOptions, call?: CallOptions): Promise<ExecPythonResult> {
    return this.#bandsox.connection.call("post", "/api/vms/{vm}/exec-python", { ...this.#path, body: options }, { ...call, patient: true });
  }

  /** The entries of a directory, by name. */
  async listDir(path = "/", call?: CallOptions): Promise<ListDirResult> {
    return this.#bandsox.connection.call("get", "/api/vms/{vm}/files", { ...this.#path, query: { path } }, call);
  }

  /** A text file. What is not UTF-8 appears as U+FFFD. */
  async readFile(path: string, call?: CallOptions): Promise<string> {
    const { content } = await this.#bandsox.connection.call("get", "/api/vms/{vm}/read-file", { ...this.#path, query: { path } }, call);
    return content;
  }

  /** Write a file, which appears whole or not at all. */
  async writeFile(options: WriteFileOptions, call?: CallOptions): Promise<WriteResult> {
    return this.#bandsox.connection.call("post", "/api/vms/{vm}/write-file", { ...this.#path, body: options }, { ...call, patient: true });
  }

  /** A file's size, mode and time of modification. */
  async getFileInfo(path: string, call?: CallOptions): Promise<FileInfo> {
    const { info } = await this.#bandsox.connection.call("get", "/api/vms/{vm}/file-info", { ...this.#path, query: { path } }, call);
    return info;
  }
}
