/** Where a machine may go in its network, and where it went. */

import { Guest } from "./guest.js";
import { LINES } from "./lines.js";
import {
  type CallOptions,
  type NetworkConnection,
  type NetworkEvent,
  type NetworkLogOptions,
  type NetworkPolicy,
  type NetworkPolicyOptions,
  type NetworkPreset,
  type NetworkStats,
  type SecretInfo,
} from "./types.js";

/** The part of {@link MicroVM} that is about its network. */
export abstract class Networked extends Guest {
  /** Where it may go; null: wherever the Internet is, and nothing is written down. */
  async networkPolicy(call?: CallOptions): Promise<NetworkPolicy | null> {
    return (await this.connection.call("get", "/api/vms/{vm}/network/policy", this.machine, call)).policy;
  }

  /**
   * Say where it may go from now on: a policy, or the name of a preset. Connections that are open and not allowed any more end; it holds for later
   * starts. What is not the Internet's takes a key of the scope `admin`. Returns the policy, whole.
   */
  async setNetworkPolicy(policy: NetworkPolicyOptions | NetworkPreset, call?: CallOptions): Promise<NetworkPolicy> {
    const request = { ...this.machine, body: { policy } };
    return (await this.connection.call("put", "/api/vms/{vm}/network/policy", request, call)).policy as NetworkPolicy;
  }

  /** The policy that allows just what it has connected to; most exact for one that ran under the preset `learn`. */
  async learnedPolicy(call?: CallOptions): Promise<NetworkPolicy> {
    return (await this.connection.call("get", "/api/vms/{vm}/network/learned", this.machine, call)).policy as NetworkPolicy;
  }

  /** What its programs use and do not have: the secrets it was made with, without their values. */
  async secrets(call?: CallOptions): Promise<SecretInfo[]> {
    return this.connection.call("get", "/api/vms/{vm}/secrets", this.machine, call);
  }

  /** Give one of its secrets another value, from the next request of its programs on; null withdraws it, and they send the placeholder. */
  async setSecret(name: string, value: string | null, call?: CallOptions): Promise<SecretInfo> {
    const path = { ...this.machine.path, name };
    if (value === null) return this.connection.call("delete", "/api/vms/{vm}/secrets/{name}", { path }, call);
    return this.connection.call("put", "/api/vms/{vm}/secrets/{name}", { path, body: { value } }, call);
  }

  /** How much it has used its network since its start. */
  async networkStats(call?: CallOptions): Promise<NetworkStats> {
    return this.connection.call("get", "/api/vms/{vm}/network/stats", this.machine, call);
  }

  /** What it has connected to, and tried to, the oldest first. */
  async networkLog(options: NetworkLogOptions = {}, call?: CallOptions): Promise<NetworkConnection[]> {
    return this.connection.call("get", "/api/vms/{vm}/network/log", { ...this.machine, query: options }, call);
  }

  /**
   * What it connects to, from the moment on at which this returns, until its network ends. It ends with its signal too, or when the loop is left.
   */
  async followNetworkLog(call?: CallOptions): Promise<AsyncGenerator<NetworkEvent, void, undefined>> {
    const opened = await this.connection.open("get", "/api/vms/{vm}/network/log/follow", this.machine, {
      ...call,
      headers: { accept: LINES },
    });
    const lines = this.followed(opened, call);
    await lines.next(); // that it has begun
    return lines as unknown as AsyncGenerator<NetworkEvent, void, undefined>;
  }
}
