/** VMs: what they are made of, and what is known of them. */

import { type Sent, type Shape } from "../schema.js";
import { type UploadFolderFiles } from "./files.js";

/** A VM to be made. */
export interface CreateVmOptions extends Sent<"NewVM"> {}

/** A VM to be made of the image of a Dockerfile. */
export interface CreateVmFromDockerfileOptions extends Omit<CreateVmOptions, "image"> {
  /** A name for the image. */
  tag?: string | null | undefined;
  /** Values of its `ARG`s. */
  build_args?: Record<string, string> | undefined;
  /** What COPY and ADD take files from: files by their paths, or a tar archive. */
  context?: UploadFolderFiles | Blob | undefined;
}

/** Which VMs to list. */
export interface ListVmsOptions {
  /** Only so many. */
  limit?: number | null | undefined;
  /** Only those whose metadata has all these values. */
  metadata_equals?: Record<string, unknown> | null | undefined;
  /** Only those with this name. */
  name?: string | undefined;
  /** Only those of this image. */
  image?: string | undefined;
  /** Only those with this status. */
  status?: VmInfo["status"] | undefined;
  /** Only those behind the one with this id: the next page. */
  after?: string | undefined;
}

/** All that is known of a VM. */
export interface VmInfo extends Omit<Shape<"VM">, "network_config" | "vsock_config"> {
  /** null where it has no network. */
  network_config: NetworkConfig | null;
  vsock_config: VsockConfig | null;
}

/** The addresses of a VM. */
export interface NetworkConfig {
  host_ip: string;
  guest_ip: string;
  host_mac: string;
  guest_mac: string;
  tap_name: string;
  host_ipv6?: string | null;
  guest_ipv6?: string | null;
  uplink?: "pasta" | "veth" | "cni";
  dns?: string[];
  mtu?: number;
  /** Whether there is a way to the world over IPv6. */
  ipv6?: boolean;
  /** Those of a CNI network, at which others reach the guest. */
  addresses?: string[];
  /** The domains in which names are looked for, and options, of a CNI network's `resolv.conf`. */
  search?: string[];
  resolver_options?: string[];
}

/** The virtual socket of a VM. */
export interface VsockConfig {
  enabled: boolean;
  cid: number;
  port: number;
  uds_path: string;
  baked_uds_path?: string | null;
  host_uds_path?: string;
}

/** How long a VM may run from now on. */
export interface DeadlineOptions extends Sent<"NewDeadlines"> {}

/** How long a VM may run. */
export interface Deadlines extends Shape<"DeadlinesInForce"> {}

/** How large a VM's balloon is to be, and is, and what the guest says of the rest, in MiB. */
export interface BalloonInfo extends Shape<"BalloonInfo"> {}

/** One process of a guest. */
export interface ProcessInfo extends Shape<"ProcessInfo"> {}

/**
 * A guest's own view of its load: times in milliseconds and traffic in bytes since it has booted, sizes in bytes. What its disks and its network
 * have carried is null in a guest that goes on from a snapshot of an earlier version.
 */
export interface Metrics extends Shape<"Metrics"> {}

/** What the agent says of itself and its kernel. */
export interface GuestInfo {
  agent: string;
  kernel: string;
  arch: string;
  uptime_ms: number;
  transport: string;
  capabilities: string[];
  /** The guest's clock, in seconds since the epoch. */
  time: number;
}
