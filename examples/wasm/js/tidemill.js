// Payloads as JavaScript values, and one component for several functions. The interfaces of the
// world are imported by their names, such as "tidemill:platform/counter@0.1.0".
import request from "tidemill:platform/request@0.1.0";

/** An error with a code of its own, for `throw`. */
export function failure(code, message) {
  return { code, message };
}

/** The value of a JSON payload. */
export function parse(payload) {
  if (!payload.contentType.startsWith("application/json")) {
    throw failure("bad-value", `JSON is expected, this is ${payload.contentType}`);
  }
  try {
    return JSON.parse(decode(payload.body));
  } catch (error) {
    throw failure("bad-value", `the JSON does not parse: ${error.message}`);
  }
}

/** A value as a JSON payload. */
export function json(value) {
  return { contentType: "application/json", body: encode(JSON.stringify(value ?? null)) };
}

/** The world's `handle`, of functions by name: each takes a value and returns one. */
export function serve(functions) {
  return (input) => {
    const name = request.current().function;
    if (!Object.hasOwn(functions, name)) {
      const known = Object.keys(functions).join(", ");
      throw failure("unknown-function", `${name} is none of ${known}`);
    }
    try {
      return json(functions[name](parse(input)));
    } catch (error) {
      // What an import refuses comes as an Error with the platform's error as its payload.
      if (error instanceof Error) {
        throw error.payload ?? failure("function-failed", `${error.name}: ${error.message}`);
      }
      throw error;
    }
  };
}

// QuickJS has neither TextEncoder nor TextDecoder, but these take the long way natively.

/** A text as UTF-8; half of a surrogate pair becomes U+FFFD. */
export function encode(text) {
  const raw = unescape(encodeURIComponent(text.toWellFormed()));
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at += 1) {
    bytes[at] = raw.charCodeAt(at);
  }
  return bytes;
}

/** Bytes in UTF-8 as a text. Throws a URIError if they are not. */
export function decode(bytes) {
  let raw = "";
  // Not all at once: what a function is applied to has to fit its stack.
  for (let at = 0; at < bytes.length; at += 4096) {
    raw += String.fromCharCode.apply(null, bytes.subarray(at, at + 4096));
  }
  return /[\x80-\xff]/.test(raw) ? decodeURIComponent(escape(raw)) : raw;
}
