/** The shells of a VM that have a terminal: those that were opened before, here or elsewhere, and new ones. */

import { SHELL } from "bandsox";
import { machine } from "../../../api/sdk";
import type { Session } from "../../../api/types";
import { visible } from "../../../visible";

export class Shell {
  readonly id: string;
  /** Whether what it has shown before is shown again: then nobody waits for the terminal's answers any more. */
  readonly replayed: boolean;
  title = $state("shell");
  /** How it ended: its exit code. */
  ended = $state<number | null>(null);

  constructor(id: string, title: string, replayed: boolean) {
    this.id = id;
    this.title = title;
    this.replayed = replayed;
  }

  /** Take the title that a program of the guest asks for: a line of text, not long. */
  rename(asked: string): void {
    this.title = visible(asked).replaceAll(/\s+/g, " ").trim().slice(0, 60) || "shell";
  }
}

export class Shells {
  list = $state.raw<Shell[]>([]);
  current = $state<string | null>(null);
  failure = $state.raw<unknown>(null);
  readonly #vm: string;

  constructor(vm: string) {
    this.#vm = vm;
  }

  get shown(): Shell | undefined {
    return this.list.find((shell) => shell.id === this.current);
  }

  /** Show the terminals that are there, or open the first. */
  async find(): Promise<void> {
    try {
      const running = (await machine(this.#vm).listSessions()).filter((session) => session.tty && session.running);
      this.failure = null;
      if (!running.length && !this.list.length) {
        await this.open();
        return;
      }
      const opened = this.list; // one may have been, while this was asked
      const others = running.filter((session) => !opened.some((shell) => shell.id === session.id));
      this.list = [...others.map((session) => new Shell(session.id, titleOf(session), true)), ...opened];
      this.current ??= this.list[0]!.id;
    } catch (error) {
      this.failure = error;
    }
  }

  async open(): Promise<void> {
    try {
      const options = { env: { TERM: "xterm-256color", COLORTERM: "truecolor" }, tty: { cols: 80, rows: 24 } };
      const { id } = await machine(this.#vm).startSession(SHELL, options);
      this.list = [...this.list, new Shell(id, "shell", false)];
      this.current = id;
    } catch (error) {
      this.failure = error;
    }
  }

  /** End a shell with all that it has started. One that has ended was forgotten then. */
  async close(shell: Shell): Promise<void> {
    if (shell.ended === null) await machine(this.#vm).killSession(shell.id);
    this.list = this.list.filter((each) => each !== shell);
    if (this.current === shell.id) this.current = this.list.at(-1)?.id ?? null;
  }
}

function titleOf(session: Session): string {
  const command = session.argv.join(" ");
  return command.includes(SHELL) ? "shell" : visible(command).slice(0, 60);
}
