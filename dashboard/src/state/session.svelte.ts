/** Whether the server knows who is here. */

import { bandsox, refusals } from "../api/sdk";
import { asFailure, type Failure } from "../api/failure";

class Session {
  /** Null until the server has said so. */
  known = $state<boolean | null>(null);
  /** Whether there is anything to log in to. */
  guarded = $state(false);
  failure = $state<Failure | null>(null);

  constructor() {
    refusals.addEventListener("unknown", () => (this.known = false));
  }

  async check(): Promise<void> {
    try {
      const answer = await bandsox.authCheck();
      this.guarded = answer.auth_enabled;
      this.known = answer.authenticated;
      this.failure = null;
    } catch (error) {
      this.failure = asFailure(error);
    }
  }

  async login(password: string): Promise<void> {
    await bandsox.login(password);
    this.known = true;
  }

  async logout(): Promise<void> {
    await bandsox.logout();
    this.known = false;
  }
}

export const session = new Session();
