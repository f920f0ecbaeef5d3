/** The documents of previews. What a guest wrote becomes markup here and nowhere else, cleaned by DOMPurify, for a frame in which nothing of
 * it can run, load, or lead anywhere. */

import DOMPurify from "dompurify";
import { Marked } from "marked";
import styleAddress from "./preview.css?url";

/** A frame's document as the browser wants it: trusted markup where it knows of that (Trusted Types), else text. */
export type FrameDocument = TrustedHTML | string;

const LIMITS = {
  FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select", "audio", "video", "link", "meta", "base"],
  FORBID_ATTR: ["style", "href", "xlink:href", "action", "srcset", "ping", "background", "poster"],
  ALLOW_DATA_ATTR: false,
};

/** Markdown whose markup appears as the text that it is, and whose images, which are elsewhere, as their descriptions. */
const markdown = new Marked({ gfm: true, async: false }).use({
  renderer: { html: ({ text }) => escaped(text), image: ({ text }) => `<em>${escaped(text)}</em>` },
});

const policy = window.trustedTypes?.createPolicy("preview", { createHTML: framed });

/** The frame has no origin, so that it may fetch nothing from here: its style stands in it, and the page's policy knows its digest. */
const style = fetch(styleAddress).then((answer) => answer.text());

interface Content {
  body: string;
  style: string;
  dark: boolean;
}

function framed(content: string): string {
  const { body, style, dark } = JSON.parse(content) as Content;
  const head = `<meta charset="utf-8"><meta name="color-scheme" content="${dark ? "dark" : "light"}"><style>${style}</style>`;
  return `<!doctype html><html><head>${head}</head><body>${DOMPurify.sanitize(body, LIMITS)}</body></html>`;
}

async function documentOf(body: string, dark: boolean): Promise<FrameDocument> {
  const content = JSON.stringify({ body, style: await style, dark } satisfies Content);
  return policy ? policy.createHTML(content) : framed(content);
}

export function ofMarkdown(text: string, dark: boolean): Promise<FrameDocument> {
  return documentOf(markdown.parse(text) as string, dark);
}

export function ofImage(bytes: Uint8Array, type: string, name: string, dark: boolean): Promise<FrameDocument> {
  const image = document.createElement("img");
  image.src = `data:${type};base64,${base64(bytes)}`;
  image.alt = name;
  return documentOf(image.outerHTML, dark);
}

function escaped(text: string): string {
  const holder = document.createElement("p");
  holder.textContent = text;
  return holder.innerHTML;
}

function base64(bytes: Uint8Array): string {
  const pieces: string[] = [];
  const PIECE = 0x6000; // a multiple of three, so that pieces can be put together
  for (let at = 0; at < bytes.length; at += PIECE) pieces.push(btoa(String.fromCharCode(...bytes.subarray(at, at + PIECE))));
  return pieces.join("");
}
