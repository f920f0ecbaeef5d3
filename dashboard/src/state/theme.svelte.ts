/** Light, dark, or as the system has it; kept in this browser. */

export type Theme = "system" | "light" | "dark";

const KEY = "bandsox.theme";

function kept(): Theme {
  const value = localStorage.getItem(KEY);
  return value === "light" || value === "dark" ? value : "system";
}

class ThemeChoice {
  choice = $state<Theme>(kept());
  #systemIsDark = $state(false);

  constructor() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    this.#systemIsDark = system.matches;
    system.addEventListener("change", () => (this.#systemIsDark = system.matches));
    this.#apply();
  }

  /** Whether the page is dark now. */
  get dark(): boolean {
    return this.choice === "dark" || (this.choice === "system" && this.#systemIsDark);
  }

  choose(choice: Theme): void {
    this.choice = choice;
    localStorage.setItem(KEY, choice);
    this.#apply();
  }

  #apply(): void {
    document.documentElement.dataset.theme = this.choice;
  }
}

export const theme = new ThemeChoice();
