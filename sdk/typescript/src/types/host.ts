/** The server and its host: what happens there, images, and webhooks. */

import { type Sent, type Shape } from "../schema.js";

/** The server's host: what it has, and what is free. */
export interface HostInfo extends Shape<"Host"> {}

/** One thing that was looked at on the server's host. `note`: it works without, but better with. */
export interface Finding {
  subject: string;
  state: "ok" | "note" | "missing";
  text: string;
  /** The command that mends it. */
  remedy: string | null;
}

/** An image that is on the server. */
export interface ImageInfo extends Shape<"ImageInfo"> {}

/** Something that happened to a VM, a snapshot or an image, whichever program did it. */
export interface ServerEvent {
  /**
   * `vm.created`, `vm.status`, `vm.renamed`, `vm.updated`, `vm.deleted`, the same of `snapshot.` and `image.`; `hello` comes first: whatever happens
   * from then on is told; `lost`: ask for the lists anew.
   */
  type: string;
  /** Where one can go on. */
  id: number;
  /** When, in seconds since the epoch. */
  at?: number;
  /** The id of what it happened to. */
  subject?: string;
  name?: string | null;
  status?: string | null;
}

/** An address that is told of events. */
export interface WebhookInfo extends Shape<"WebhookInfo"> {}

/** Which events an address is told of: `vm.*` are all that begin so, `*`, the default, all. */
export interface CreateWebhookOptions extends Omit<Sent<"NewWebhook">, "url"> {}

/** A webhook with its secret, with which its messages are signed as Standard Webhooks says. */
export interface CreateWebhookResult extends Shape<"CreatedWebhook"> {}

/** What is to be changed of a webhook. */
export interface EditWebhookOptions extends Sent<"EditedWebhook"> {}

/** An attempt to deliver a message, and what became of it. */
export interface WebhookDelivery extends Shape<"DeliveryInfo"> {}
