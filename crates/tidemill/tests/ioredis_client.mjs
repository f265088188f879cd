// The Redis door by ioredis: `ioredis_client.mjs HOST:PORT TOKEN`.

import assert from "node:assert/strict";
import Redis from "ioredis";

const [address, password] = process.argv.slice(2);
const [host, port] = address.split(":");
const options = { host, port: Number(port), password, maxRetriesPerRequest: 0 };
const client = new Redis(options);

assert.equal(await client.ping(), "PONG");
assert.equal(await client.set("a", "1"), "OK");
assert.equal(await client.set("a", "2", "NX"), null);
assert.equal(await client.get("a"), "1");
const bytes = Buffer.from([0, 255, 13, 10]);
assert.equal(await client.set("a", bytes, "EX", 100), "OK");
assert.deepEqual(await client.getBuffer("a"), bytes);
assert.equal((await client.ttl("a")) > 0, true);
assert.equal(await client.mset({ b: 1, c: 2 }), "OK");
assert.deepEqual(await client.mget("b", "c", "d"), ["1", "2", null]);
assert.equal(await client.incrby("b", 41), 42);
assert.equal(await client.hset("h", { x: 1, y: "z" }), 2);
assert.deepEqual(await client.hgetall("h"), { x: "1", y: "z" });
assert.equal(await client.sadd("s", "m", "n"), 2);
assert.deepEqual((await client.smembers("s")).sort(), ["m", "n"]);
const entry = await client.xadd("x", "*", "field", "value");
assert.deepEqual(await client.xrange("x", "-", "+"), [[entry, ["field", "value"]]]);
await assert.rejects(client.incr("h"), /WRONGTYPE/);

const found = [];
for await (const keys of client.scanStream({ count: 2 })) found.push(...keys);
assert.deepEqual(found.sort(), ["a", "b", "c", "h", "s", "x"]);

const pipeline = client.pipeline();
for (let number = 0; number < 200; number += 1) pipeline.set("p", number).get("p");
const answers = await pipeline.exec();
answers.forEach(([error, answer], place) => {
  assert.equal(error, null);
  assert.equal(answer, place % 2 ? String((place - 1) / 2) : "OK");
});

const others = Array.from({ length: 8 }, () => new Redis(options));
await Promise.all(others.map((other) => Promise.all(Array.from({ length: 50 }, () => other.incr("n")))));
assert.equal(await client.get("n"), "400");
await Promise.all([client, ...others].map((other) => other.quit()));
console.log("ok");
