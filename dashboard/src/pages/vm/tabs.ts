/** The tabs of a VM's page, each fetched when it is opened. */

import type { Component } from "svelte";
import type { Vm } from "../../api/types";

export interface Tab {
  /** The last part of its address. */
  path: string;
  label: string;
  load: () => Promise<{ default: Component<{ vm: Vm }> }>;
  /** Whether it shows what only a guest that runs can tell. */
  needsGuest?: boolean;
}

export const TABS: readonly Tab[] = [
  { path: "", label: "Overview", load: () => import("./overview/Overview.svelte") },
  { path: "terminal", label: "Terminal", load: () => import("./terminal/Terminal.svelte"), needsGuest: true },
  { path: "files", label: "Files", load: () => import("./files/Files.svelte"), needsGuest: true },
  { path: "processes", label: "Processes", load: () => import("./processes/Processes.svelte"), needsGuest: true },
  { path: "network", label: "Network", load: () => import("./network/Network.svelte") },
  { path: "ports", label: "Ports", load: () => import("./ports/Ports.svelte") },
  { path: "timeline", label: "Timeline", load: () => import("./timeline/Timeline.svelte") },
  { path: "family", label: "Family", load: () => import("./family/Family.svelte") },
  { path: "console", label: "Console", load: () => import("./console/Console.svelte") },
];
