/** Images, keys, logging in, and the host itself. */

import { type CreateApiKeyOptions, type ImageInfo } from "bandsox";
import { ask } from "./http";
import { askWithProgress, type Following } from "./progress";
import { bandsox } from "./sdk";
import type { Finding } from "./types";

export const images = {
  list: () => bandsox.listImages(),
  pull: (reference: string, following: Following) => askWithProgress<ImageInfo>("/api/images/pull", { reference }, following),
  tag: (reference: string, name: string) => bandsox.tagImage(reference, name),
  remove: (reference: string) => bandsox.removeImage(reference),
};

export const auth = {
  check: () => bandsox.authCheck(),
  login: (password: string) => bandsox.login(password),
  logout: () => bandsox.logout(),
  keys: () => bandsox.listApiKeys(),
  createKey: (name: string, options: CreateApiKeyOptions) => bandsox.createApiKey(name, options),
  revokeKey: (id: string) => bandsox.revokeApiKey(id),
};

export const host = {
  version: () => ask<{ version: string }>("GET", "/api/version"),
  doctor: () => ask<Finding[]>("GET", "/api/doctor"),
  cleanup: () => ask<Record<string, unknown>>("POST", "/api/cleanup"),
};
