/** Attempts to deliver a webhook's messages, in words. */

import type { WebhookDelivery } from "../../api/types";
import { visible } from "../../visible";

const OUTCOMES: Record<WebhookDelivery["outcome"], string> = { delivered: "delivered", failed: "not delivered", given_up: "given up" };

/** What became of one, and why: `not delivered: status 500`. What the other side says is text. */
export function outcomeOf({ outcome, status, error }: WebhookDelivery): string {
  const why = status === null ? visible(error ?? "") : `status ${status}`;
  return why === "" ? OUTCOMES[outcome] : `${OUTCOMES[outcome]}: ${why}`;
}
