/** Checkpoints as a picture: a row for each, in the order of time, and a lane for each run of the VM, which begins where it was rewound to. */

import type { Checkpoint } from "../../../api/types";

/** A place of the picture. */
export interface Place {
  /** Null for the present. */
  checkpoint: Checkpoint | null;
  row: number;
  lane: number;
  /** Where its line comes from: the place before it in its lane, or the checkpoint that the lane begins at. */
  from: { row: number; lane: number } | null;
}

/** The places of checkpoints, the oldest first, and of the present, which goes on from the snapshot `origin`. */
export function placesOf(checkpoints: readonly Checkpoint[], origin: string | null): Place[] {
  const rows = checkpoints.toSorted((one, other) => one.created_at - other.created_at);
  const bySnapshot = new Map<string, Place>();
  const lanes = new Map<string | null, Place>();
  const places: Place[] = [];

  function add(checkpoint: Checkpoint | null, after: string | null): void {
    const before = lanes.get(after) ?? null;
    const begin = after === null ? undefined : bySnapshot.get(after);
    const from = before ?? begin ?? null;
    const lane = before?.lane ?? lanes.size;
    const place: Place = { checkpoint, row: places.length, lane, from: from && { row: from.row, lane: from.lane } };
    lanes.set(after, place);
    if (checkpoint) bySnapshot.set(checkpoint.snapshot, place);
    places.push(place);
  }

  for (const checkpoint of rows) add(checkpoint, checkpoint.after);
  if (rows.length) add(null, origin);
  return places;
}
