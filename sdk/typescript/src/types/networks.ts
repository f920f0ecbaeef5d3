/** Where VMs may go, and how their ports are reached. */

import { type Sent, type Shape } from "../schema.js";

/** Where a VM may go: what `allow` has and `deny` has not. Without `allow` it is the Internet. */
export interface NetworkPolicyOptions extends Sent<"NewPolicy"> {}

/** A policy that has a name. */
export type NetworkPreset = "internet" | "none" | "registry-only" | "learn";

/** Where a VM may go. */
export interface NetworkPolicy extends Shape<"PolicyInfo"> {}

/** A value that a VM's programs use without having it; see `secrets` of {@link CreateVmOptions}. */
export interface Secret extends Sent<"NewSecret"> {}

/** What is known of a VM's secret, which is never its value. */
export interface SecretInfo extends Shape<"SecretInfo"> {}

/** What a VM connected to, or tried to. */
export interface NetworkConnection extends Shape<"NetworkConnection"> {}

/** How much a VM has used its network: bytes, headers included, and connections. */
export interface NetworkStats extends Shape<"NetworkUse"> {}

/** Which part of a VM's network log. */
export interface NetworkLogOptions {
  /** Only so many, the newest. */
  limit?: number | undefined;
  /** Only those. */
  verdict?: "allowed" | "refused" | undefined;
}

/** A line of a VM's network log: a connection was opened, closed, or one, or the question for a name, was refused. */
export interface NetworkEvent {
  type: "connection";
  /** The connection's. */
  id: number;
  /** Seconds since the epoch. */
  time: number;
  event: "opened" | "closed" | "refused";
  /** `dns` for the question for a name. */
  protocol: string;
  name: string;
  address: string;
  port: number;
  /** Bytes, known when it is closed; so the next. */
  sent: number;
  received: number;
  /** Why it was refused. */
  reason: string;
}

/** A port of the server's host that leads to one of a VM. */
export interface PublishedPort extends Shape<"Port"> {}

/** A port that a VM publishes, and how it is used. */
export interface PortInfo extends Shape<"PortInfo"> {}

/** An HTTP request to a port of the guest. */
export interface HttpProxyOptions extends Sent<"HttpRequest"> {}

/** What it was answered. */
export interface HttpProxyResult extends Shape<"HttpResponse"> {}
