/** What is passed around. The names of properties are those of the server, and most types are its own (see `schema.ts`). */

export type * from "./types/access.js";
export type * from "./types/calls.js";
export type * from "./types/commands.js";
export type * from "./types/files.js";
export type * from "./types/host.js";
export type * from "./types/machines.js";
export type * from "./types/networks.js";
export type * from "./types/snapshots.js";
