// What the reviews example does to a text, as examples/reviews/text.py does it.

const MASK = "****";
// Letters, digits and spaces as Python takes them.
const WORD = /[\p{L}\p{N}]+(?:'[\p{L}\p{N}]+)*/gu;
const PIECE = /[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f\x85]|\ufeff/gu;
const JOINS = /^[\p{L}\p{N}_]/u;
const SPACES = /(?:[^\S\ufeff]|[\x1c-\x1f\x85])+/u;

/** The words in order; an apostrophe inside belongs to its word. */
export function words(text) {
  return text.match(WORD) ?? [];
}

/** Lower case, one form for each character, plain quotes, single spaces. */
function clean(text) {
  const plain = text
    .normalize("NFKC")
    .replace(/[\u2018\u2019`]/g, "'")
    .replace(/[\u201c\u201d]/g, '"')
    .replaceAll("''", '"');
  return plain.toLowerCase().split(SPACES).filter(Boolean).join(" ");
}

/** Blocked words and phrases by their first piece, the longest first. */
export function index(entries) {
  const found = new Map();
  for (const entry of entries.map(clean)) {
    const first = entry.match(PIECE)?.[0];
    if (first !== undefined && entry.startsWith(first)) {
      found.set(first, [...(found.get(first) ?? []), entry]);
    }
  }
  for (const same of found.values()) {
    same.sort((left, right) => right.length - left.length);
  }
  return found;
}

/** The text with each blocked word or phrase masked, and how many there were. */
export function mask(text, blocked) {
  const parts = [];
  let kept = 0;
  let masked = 0;
  for (const { 0: piece, index: start } of text.matchAll(PIECE)) {
    if (start < kept) {
      continue;
    }
    const entry = blocked.get(piece)?.find((entry) => {
      return text.startsWith(entry, start) && !JOINS.test(text.slice(start + entry.length));
    });
    if (entry !== undefined) {
      parts.push(text.slice(kept, start), MASK);
      kept = start + entry.length;
      masked += 1;
    }
  }
  parts.push(text.slice(kept));
  return [parts.join(""), masked];
}
