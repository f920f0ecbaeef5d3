/** A network policy as the fields of a form: rules in lines, limits as numbers or nothing. */

import type { NetworkPolicyOptions } from "bandsox";
import type { NetworkPolicy } from "../../../api/types";

export interface Draft {
  allow: string;
  deny: string;
  learn: boolean;
  upload: number | null;
  download: number | null;
  connections: number | null;
}

/** The form of a policy; where there is none yet, of the one that allows the Internet. */
export function draftOf(policy: NetworkPolicy | null): Draft {
  return {
    allow: policy?.allow.join("\n") ?? "internet",
    deny: policy?.deny.join("\n") ?? "",
    learn: policy?.learn ?? false,
    upload: policy?.upload_mbit ?? null,
    download: policy?.download_mbit ?? null,
    connections: policy?.connections ?? null,
  };
}

export function policyOf(draft: Draft): NetworkPolicyOptions {
  return {
    allow: rules(draft.allow),
    deny: rules(draft.deny),
    learn: draft.learn,
    upload_mbit: draft.upload ?? null,
    download_mbit: draft.download ?? null,
    connections: draft.connections ?? null,
  };
}

function rules(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
}
