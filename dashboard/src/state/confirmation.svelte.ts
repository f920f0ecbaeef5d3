/** Questions before what cannot be undone. */

export interface Question {
  title: string;
  text: string;
  /** What the button that does it says. */
  action: string;
}

class Confirmations {
  question = $state.raw<Question | null>(null);
  #answer: ((yes: boolean) => void) | null = null;

  /** Ask; whether the answer is yes. */
  ask(question: Question): Promise<boolean> {
    this.answer(false);
    this.question = question;
    return new Promise((resolve) => (this.#answer = resolve));
  }

  answer(yes: boolean): void {
    this.#answer?.(yes);
    this.#answer = null;
    this.question = null;
  }
}

export const confirmations = new Confirmations();
