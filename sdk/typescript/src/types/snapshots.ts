/** What VMs are saved as, and made of: snapshots, checkpoints, clones, templates and pools. */

import { type Sent, type Shape } from "../schema.js";
import { type NetworkConfig, type VsockConfig } from "./machines.js";

/** A snapshot to be taken. */
export interface SnapshotOptions extends Sent<"NewSnapshot"> {}

/** A snapshot. */
export interface SnapshotInfo extends Omit<Shape<"SnapshotInfo">, "network_config" | "vsock_config"> {
  network_config: NetworkConfig | null;
  vsock_config: VsockConfig | null;
}

/** Which snapshots to list. */
export interface ListSnapshotsOptions {
  /** Only so many. */
  limit?: number | undefined;
  /** Only those behind the one with this id: the next page. */
  after?: string | undefined;
  /** Only those whose metadata has all these values. */
  metadata_equals?: Record<string, unknown> | undefined;
  /** Only those of the VM with this id. */
  source_vm_id?: string | undefined;
  /** Those too that belong to a VM or a template: checkpoints, memories, and what templates are made of. */
  belonging?: boolean | undefined;
}

/** A VM to be made of a snapshot. */
export interface RestoreVmOptions extends Sent<"Restore"> {}

/** Clones to be made. */
export interface ForkOptions extends Sent<"Fork"> {}

/** Which snapshots a server keeps; the others go by themselves. */
export interface Retention extends Shape<"RetentionShape"> {}

/** Which snapshots a server is to keep: those up to an age in seconds, the newest so many of each VM, and those with certain names. */
export interface RetentionOptions extends Sent<"RetentionShape"> {}

/** Which snapshots to remove: those that `kept` does not keep, by default what is kept at all times. */
export interface PruneSnapshotsOptions extends Sent<"PruneSnapshots"> {}

/** A snapshot that was removed. */
export interface PrunedSnapshot extends Shape<"PrunedSnapshot"> {}

/** How a snapshot is packed. */
export interface ExportSnapshotOptions {
  /** A snapshot that the receiver has: only what differs from it is sent. */
  base?: string | undefined;
  /** With the root file system of the VM's image, as by default. */
  image?: boolean | undefined;
}

/** A snapshot on its way to another server. */
export interface ExportedSnapshot {
  /** What names all of it. */
  digest: string;
  /** How many bytes there are. */
  size: number;
  stream: ReadableStream<Uint8Array>;
}

/** How a snapshot is taken in. */
export interface ImportSnapshotOptions {
  /** Another name than it had. */
  name?: string | undefined;
  /** Told how many bytes were sent so far. */
  onProgress?: ((bytes: number) => void) | undefined;
}

/** A place in a VM's timeline that it can go back to. */
export interface Checkpoint extends Shape<"CheckpointInfo"> {}

/** A file that is not the same in two states of a VM. `raw_path` are the bytes of a path that is not UTF-8, in base64. */
export interface FileDifference extends Shape<"Difference"> {}

/** A template to be made, or found. */
export interface CreateTemplateOptions extends Sent<"NewTemplate"> {}

/** A VM that was set up once, to start others from: their image is `template:ID`. */
export interface TemplateInfo extends Shape<"TemplateInfo"> {}

/** A warm pool: how many VMs of a template shall stand ready, and do. */
export interface PoolInfo extends Shape<"PoolInfo"> {}

/** What a VM of a pool is to be called, and to have. */
export interface TakeVmOptions extends Sent<"TakeFromPool"> {}
