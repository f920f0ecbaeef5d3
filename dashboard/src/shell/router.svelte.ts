/** Where the browser is, and how to go elsewhere without loading the page again. */

class Router {
  /** The address that is shown. */
  url = $state.raw(new URL(location.href));

  constructor() {
    addEventListener("popstate", () => (this.url = new URL(location.href)));
  }

  /** Go to an address of the dashboard; with `replace` the one before is forgotten. */
  go(to: string, { replace = false } = {}): void {
    const url = new URL(to, location.href);
    history[replace ? "replaceState" : "pushState"](null, "", url);
    const samePage = url.pathname === this.url.pathname;
    this.url = url;
    if (!samePage) scrollTo(0, 0);
  }

  /** Set parameters of the address in place; null and the empty text remove one. */
  set(values: Record<string, string | null>): void {
    const url = new URL(this.url);
    for (const [name, value] of Object.entries(values)) {
      if (value) url.searchParams.set(name, value);
      else url.searchParams.delete(name);
    }
    this.go(url.href, { replace: true });
  }

  /** Follow links of the page within it; what opens elsewhere, downloads, or leaves the dashboard is the browser's. */
  follow = (event: MouseEvent): void => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element).closest("a");
    const href = link?.getAttribute("href"); // the same for links of pictures, which have no other address in common
    if (!link || href === null || href === undefined || link.hasAttribute("target") || link.hasAttribute("download")) return;
    const url = new URL(href, location.href);
    if (url.origin !== location.origin || url.pathname.startsWith("/api/") || href.startsWith("#")) return;
    event.preventDefault();
    this.go(url.href);
  };
}

export const router = new Router();
