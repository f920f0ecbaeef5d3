/** Long work of the server, followed step by step while it is done. */

import { described } from "./failure";
import { failed } from "./http";
import { asking } from "./sdk";

/** How far a task is: `done` of `total` in `unit`, where that is known. */
export interface Step {
  task: string;
  label: string;
  done: number | null;
  total: number | null;
  unit: string | null;
  finished: boolean;
}

/** Who follows long work, and may give it up. */
export interface Following {
  step: (step: Step) => void;
  signal?: AbortSignal;
}

type Line<Result> = ({ type: "progress" } & Step) | { type: "result"; result: Result } | { type: "error"; failure: unknown };

const LINES = "application/x-ndjson";

/** Have something made, and hear of each step until it is there. Going away gives it up. */
export async function askWithProgress<Result>(path: string, body: unknown, { step, signal }: Following): Promise<Result> {
  const answer = await asking(path, {
    method: "POST",
    headers: { accept: LINES, "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
  if (!answer.ok) throw await failed(answer);
  if (!answer.headers.get("content-type")?.startsWith(LINES)) return (await answer.json()) as Result;
  for await (const line of lines(answer.body!)) {
    const said = JSON.parse(line) as Line<Result>;
    if (said.type === "result") return said.result;
    if (said.type === "error") throw described(answer.status, said.failure);
    step(said);
  }
  throw new TypeError("the answer broke off");
}

/** The lines of an answer that goes on, until it ends or the signal is aborted. */
export async function* follow<Kind>(path: string, signal: AbortSignal): AsyncGenerator<Kind> {
  const answer = await asking(path, { headers: { accept: LINES }, signal });
  if (!answer.ok) throw await failed(answer);
  for await (const line of lines(answer.body!)) {
    const said = JSON.parse(line) as Kind | { type: "error"; failure: unknown };
    if (isFailure(said)) throw described(answer.status, said.failure);
    yield said;
  }
}

function isFailure(said: unknown): said is { type: "error"; failure: unknown } {
  return typeof said === "object" && said !== null && "type" in said && said.type === "error";
}

async function* lines(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const whole = (rest + value).split("\n");
    rest = whole.pop() ?? "";
    yield* whole.filter(Boolean);
  }
}
