/** Addresses that a server tells of events. */

import { type Connection } from "./connection.js";
import {
  type CallOptions,
  type CreateWebhookOptions,
  type CreateWebhookResult,
  type EditWebhookOptions,
  type WebhookDelivery,
  type WebhookInfo,
} from "./types.js";

/**
 * The webhooks of a server, for administrators. Their messages are signed as Standard Webhooks says.
 *
 * @example
 * ```ts
 * const { id, secret } = await bandsox.webhooks.create("https://example.org/hook", { events: ["vm.*"] });
 * console.log((await bandsox.webhooks.test(id)).outcome);
 * ```
 */
export class Webhooks {
  readonly #connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** All of them, the oldest first, without their secrets. */
  async list(call?: CallOptions): Promise<WebhookInfo[]> {
    return this.#connection.call("get", "/api/webhooks", {}, call);
  }

  /** One of them. @throws NotFound: there is none. */
  async get(webhook: string, call?: CallOptions): Promise<WebhookInfo> {
    return this.#connection.call("get", "/api/webhooks/{webhook}", { path: { webhook } }, call);
  }

  /** Have an address told of what happens from now on. The answer is the only place where its secret ever appears. */
  async create(url: string, options: CreateWebhookOptions = {}, call?: CallOptions): Promise<CreateWebhookResult> {
    return this.#connection.call("post", "/api/webhooks", { body: { url, ...options } }, call);
  }

  /** Change a webhook; what is not named stays, and what is failing is tried again at once. */
  async edit(webhook: string, changes: EditWebhookOptions, call?: CallOptions): Promise<WebhookInfo> {
    return this.#connection.call("patch", "/api/webhooks/{webhook}", { path: { webhook }, body: changes }, call);
  }

  /** Tell it no more. */
  async delete(webhook: string, call?: CallOptions): Promise<void> {
    await this.#connection.call("delete", "/api/webhooks/{webhook}", { path: { webhook } }, call);
  }

  /** What became of the last 200 attempts, the newest first. */
  async deliveries(webhook: string, call?: CallOptions): Promise<WebhookDelivery[]> {
    return this.#connection.call("get", "/api/webhooks/{webhook}/deliveries", { path: { webhook } }, call);
  }

  /** Send it a message of the type `webhook.test`, once. Returns what became of it. */
  async test(webhook: string, call?: CallOptions): Promise<WebhookDelivery> {
    return this.#connection.call("post", "/api/webhooks/{webhook}/test", { path: { webhook } }, call);
  }
}
