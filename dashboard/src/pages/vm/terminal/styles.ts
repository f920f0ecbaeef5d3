/** xterm.js writes its style into elements and attributes, which the page's policy refuses, whoever writes them. From its first terminal on, the
 * page makes the elements that it uses for that so that the same reaches adopted style sheets and the object model: a way that only programs
 * of the page have, and markup never.
 *
 * (Its `documentOverride` is for this, but only a part of it asks there.)
 */

/* eslint-disable @typescript-eslint/no-deprecated -- all forms of it are meant, those too */

const createElement: (tag: string, options?: ElementCreationOptions) => HTMLElement = document.createElement.bind(document);
let installed = false;

export function styleThroughModel(): void {
  if (installed) return;
  installed = true;
  document.createElement = (tag: string, options?: ElementCreationOptions): HTMLElement => {
    if (tag === "style") return adoptedStyle();
    const element = createElement(tag, options);
    return tag === "span" ? styledThroughModel(element) : element;
  };
}

/** In the place of a style element: one that shows nothing, and whose content is an adopted sheet for as long as it is there. */
function adoptedStyle(): HTMLElement {
  const element = createElement("template");
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  Object.defineProperty(element, "textContent", {
    set: (css: string) => {
      sheet.replaceSync(css);
    },
  });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== sheet);
    HTMLElement.prototype.remove.call(element);
  };
  return element;
}

function styledThroughModel(element: HTMLElement): HTMLElement {
  element.setAttribute = (name, value) => {
    if (name === "style") element.style.cssText = value;
    else HTMLElement.prototype.setAttribute.call(element, name, value);
  };
  return element;
}
