/** What the form for a new VM holds, and the request it stands for. */

import { type CreateVmOptions, type NetworkPreset } from "bandsox";

export class FormError extends Error {}

export interface Form {
  image: string;
  name: string;
  vcpu: number;
  memory: number;
  disk: number;
  network: "auto" | "on" | "off";
  /** The preset of its policy; empty for none. */
  policy: NetworkPreset | "";
  environment: string;
  /** Minutes; empty for no end. */
  ttl: number | null;
  idle: number | null;
  onExpiry: "delete" | "stop" | "pause" | "snapshot";
}

export const EMPTY: Form = {
  image: "",
  name: "",
  vcpu: 1,
  memory: 256,
  disk: 4096,
  network: "auto",
  policy: "",
  environment: "",
  ttl: null,
  idle: null,
  onExpiry: "delete",
};

/** The request. Throws a FormError where a line of the environment is none. */
export function wanted(form: Form): CreateVmOptions {
  const environment = variables(form.environment);
  return {
    ...(form.image.trim() ? { image: form.image.trim() } : {}),
    ...(form.name.trim() ? { name: form.name.trim() } : {}),
    vcpu: form.vcpu,
    mem_mib: form.memory,
    disk_size_mib: form.disk,
    ...(form.network === "auto" ? {} : { enable_networking: form.network === "on" }),
    ...(form.policy && form.network !== "off" ? { network: form.policy } : {}),
    ...(Object.keys(environment).length ? { env_vars: environment } : {}),
    ...(form.ttl ? { ttl: form.ttl * 60 } : {}),
    ...(form.idle ? { idle_timeout: form.idle * 60 } : {}),
    ...(form.ttl || form.idle ? { on_expiry: form.onExpiry } : {}),
  };
}

/** `NAME=value` in each line. */
export function variables(text: string): Record<string, string> {
  const lines = text.split("\n").filter((line) => line.trim());
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf("=");
      if (at < 1) throw new FormError(`“${line}” is no variable: write NAME=value`);
      return [line.slice(0, at).trim(), line.slice(at + 1)];
    }),
  );
}
