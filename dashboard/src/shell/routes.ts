/** The addresses of the dashboard, each with the page it shows. A page is fetched when somebody goes there. */

import type { Component } from "svelte";

export interface Page {
  /** What the browser's tab says. */
  title: string;
  load: () => Promise<{ default: Component<Record<string, string>> }>;
  /** The variable parts of the address: the page's properties. */
  props: Record<string, string>;
}

type Loader = Page["load"];

const vmsPage = (() => import("../pages/vms/VMs.svelte")) as Loader;
const vmPage = (() => import("../pages/vm/VM.svelte")) as unknown as Loader;
const snapshotsPage = (() => import("../pages/snapshots/Snapshots.svelte")) as Loader;
const templatesPage = (() => import("../pages/templates/Templates.svelte")) as Loader;
const imagesPage = (() => import("../pages/images/Images.svelte")) as Loader;
const settingsPage = (() => import("../pages/settings/Settings.svelte")) as Loader;

const ROUTES: readonly (readonly [pattern: string, title: string, load: Loader])[] = [
  ["/", "VMs", vmsPage],
  ["/vms", "VMs", vmsPage],
  ["/vms/:vm", "VM", vmPage],
  ["/vms/:vm/:tab", "VM", vmPage],
  ["/snapshots", "Snapshots", snapshotsPage],
  ["/templates", "Templates", templatesPage],
  ["/images", "Images", imagesPage],
  ["/settings", "Settings", settingsPage],
  ["/settings/:tab", "Settings", settingsPage],
];

/** The page at a path; none where nothing is there. */
export function pageAt(path: string): Page | null {
  const parts = segments(path);
  for (const [pattern, title, load] of ROUTES) {
    const props = match(segments(pattern), parts);
    if (props) return { title, load, props };
  }
  return null;
}

/** Where an address of an earlier version leads now; null for those of this one. */
export function movedTo(url: URL): string | null {
  const given = (name: string) => encodeURIComponent(url.searchParams.get(name) ?? "");
  switch (url.pathname) {
    case "/vm_details":
      return `/vms/${given("id")}`;
    case "/terminal":
      return `/vms/${given("id")}/terminal`;
    case "/markdown_viewer":
      return `/vms/${given("vm_id")}/files?open=${given("path")}`;
    default:
      return null;
  }
}

function segments(path: string): string[] {
  return path.split("/").filter((part) => part !== "");
}

/** A part of a path as it was before it was written into an address; one that is no such writing stays as it is. */
function plain(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function match(pattern: string[], parts: string[]): Record<string, string> | null {
  if (pattern.length !== parts.length) return null;
  const props: Record<string, string> = {};
  for (const [index, expected] of pattern.entries()) {
    const part = parts[index]!;
    if (expected.startsWith(":")) props[expected.slice(1)] = plain(part);
    else if (expected !== part) return null;
  }
  return props;
}
