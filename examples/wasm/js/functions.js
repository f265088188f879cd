// Four functions in one component: deploy it under each of their names.
import counter from "tidemill:platform/counter@0.1.0";
import register from "tidemill:platform/register@0.1.0";

import { decode, failure, parse, serve } from "./tidemill.js";
import * as text from "./text.js";

/** Gives its input back. */
function echo(value) {
  return value;
}

/** Adds 1 to a counter, and gives the new sum. */
function add(key) {
  // What does not fit the type of an import traps: check what comes from outside.
  if (typeof key !== "string") {
    throw failure("bad-value", "give the counter's key, a text");
  }
  counter.add(key, 1);
  return counter.get(key);
}

/** Masks the blocked words of a review. */
function mask(review) {
  const [masked, hits] = text.mask(review.text, blocked());
  return { ...review, text: masked, masked: hits };
}

/** Counts each word of a review, and gives how many there were. */
function count(review) {
  const words = text.words(review.text);
  const counts = new Map();
  for (const word of words) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  for (const [word, times] of counts) {
    counter.add(`word/${word}`, times);
  }
  return words.length;
}

// Prepared once in each instance, and again when the digest is another.
let prepared;

function blocked() {
  const digest = decode(held("blocked/digest").body);
  if (prepared?.digest !== digest) {
    prepared = { digest, blocked: text.index(parse(held("blocked"))) };
  }
  return prepared.blocked;
}

function held(key) {
  const payload = register.get(key);
  if (payload === null || payload === undefined) {
    throw failure("not-ready", `the state has no ${key}`);
  }
  return payload;
}

export const handle = serve({ echo, add, mask, count });
