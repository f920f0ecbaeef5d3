/** What a server is apart from its machines: its images, who may call it, and its host. */

import { type Connection } from "./connection.js";
import { NotFound } from "./errors.js";
import {
  type AuditOptions,
  type AuditPage,
  type AuthCheckResult,
  type AuthKeysResult,
  type BrowserSession,
  type CallOptions,
  type CreateApiKeyOptions,
  type CreateApiKeyResult,
  type EditApiKeyOptions,
  type Finding,
  type HostInfo,
  type ImageInfo,
  type LoginResult,
  type LongCallOptions,
  type NetworkPolicy,
  type NetworkPreset,
  type RequestOutcome,
} from "./types.js";
import { Webhooks } from "./webhooks.js";

/** The part of {@link BandSox} that is about the server itself. */
export abstract class Server {
  /** @internal */
  readonly connection: Connection;
  /** Addresses that the server tells of events. */
  readonly webhooks: Webhooks;

  /** @internal */
  protected constructor(connection: Connection) {
    this.connection = connection;
    this.webhooks = new Webhooks(connection);
  }

  // ── images ────────────────────────────────────────────────────────────────────────────────────

  /** The images that are on the server, newest first. */
  async listImages(call?: CallOptions): Promise<ImageInfo[]> {
    return this.connection.call("get", "/api/images", {}, call);
  }

  /** Fetch an image: always, only when it is `missing`, or `never`, which tells whether it is there. */
  async pullImage(reference: string, policy: "always" | "missing" | "never" = "always", call?: LongCallOptions): Promise<ImageInfo> {
    return this.connection.make("/api/images/pull", { body: { reference, policy } }, call);
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

  /** Set another password, by showing the one that it is. All sessions end; this client's goes on as a new one. */
  async changePassword(current: string, wanted: string, call?: CallOptions): Promise<void> {
    const { token } = await this.connection.call("put", "/api/auth/password", { body: { current, new: wanted } }, call);
    if (token !== null) this.connection.token = token;
  }

  /** The sessions of people who are logged in, the newest first. */
  async listBrowserSessions(call?: CallOptions): Promise<BrowserSession[]> {
    return this.connection.call("get", "/api/auth/sessions", {}, call);
  }

  /** End a session. */
  async endBrowserSession(session: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/auth/sessions/{session}", { path: { session } }, call);
  }

  /** End all sessions but this client's. Returns how many these were. */
  async endOtherBrowserSessions(call?: CallOptions): Promise<number> {
    return (await this.connection.call("delete", "/api/auth/sessions", {}, call)).count;
  }

  /** Who did what, the newest first: a page of the audit log. It may be empty although `next` leads to more. */
  async readAuditLog(options: AuditOptions = {}, call?: CallOptions): Promise<AuditPage> {
    return this.connection.call("get", "/api/auth/audit", { query: options }, call);
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

  /** Change what a key may do; what is not named stays. Returns what is known of it. */
  async editApiKey(keyId: string, changes: EditApiKeyOptions, call?: CallOptions): Promise<AuthKeysResult> {
    const key = await this.connection.call("patch", "/api/auth/keys/{key_id}", { path: { key_id: keyId }, body: changes }, call);
    return { ...key, key_id: key.id };
  }

  /** Have a key let nobody in any more. */
  async revokeApiKey(keyId: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/auth/keys/{key_id}", { path: { key_id: keyId } }, call);
  }

  // ── the server's host ─────────────────────────────────────────────────────────────────────────

  /** The server's version. */
  async version(call?: CallOptions): Promise<string> {
    const answer = (await this.connection.call("get", "/api/version", {}, call)) as { version: string };
    return answer.version;
  }

  /** How much the server's host has, how much of it is free, and how many VMs are in each status. */
  async host(call?: CallOptions): Promise<HostInfo> {
    return this.connection.call("get", "/api/host", {}, call);
  }

  /** The network policies that have names, by these. */
  async networkPresets(call?: CallOptions): Promise<Record<NetworkPreset, NetworkPolicy>> {
    const { presets } = await this.connection.call("get", "/api/network/presets", {}, call);
    return presets as Record<NetworkPreset, NetworkPolicy>;
  }

  /** What has become of a request of this caller that had a key, within a day; null where there was none. */
  async getRequest(idempotencyKey: string, call?: CallOptions): Promise<RequestOutcome | null> {
    return orNull(async () => this.connection.call("get", "/api/requests/{key}", { path: { key: idempotencyKey } }, call));
  }

  /** What the server's host can do, what it lacks, and the command that mends it. */
  async doctor(call?: CallOptions): Promise<Finding[]> {
    return (await this.connection.call("get", "/api/doctor", {}, { ...call, patient: true })) as Finding[];
  }

  /** Remove what processes that died have left on the server's host, and nothing else. Returns what that was. */
  async cleanup(call?: CallOptions): Promise<Record<string, unknown>> {
    return (await this.connection.call("post", "/api/cleanup", {}, { ...call, patient: true })) as Record<string, unknown>;
  }
}

/** What is asked for; null where there is no such thing. */
export async function orNull<T>(asked: () => Promise<T>): Promise<T | null> {
  try {
    return await asked();
  } catch (error) {
    if (error instanceof NotFound) return null;
    throw error;
  }
}
