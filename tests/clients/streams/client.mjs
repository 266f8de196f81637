// The client library against the stream at URL: readers of both kinds to the end, appends of a producer, bytes, resuming.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client";

const url = process.argv[2];
const numbers = [...Array(200).keys()];
const told = {};

async function followed(live, offset = "-1", of = url) {
  const response = await stream({ url: of, live, offset });
  const found = [];
  for await (const item of response.jsonStream()) found.push(item.n);
  return found;
}

const made = await DurableStream.create({ url, contentType: "application/json" });
const readers = ["long-poll", "sse"].map((live) => followed(live));
const failures = [];
const producer = new IdempotentProducer(made, "producer", { autoClaim: true, onError: (error) => failures.push(`${error}`) });
for (const n of numbers) producer.append(JSON.stringify({ n }));
await producer.flush();
await producer.close();
told.readers = await Promise.all(readers);
told.failures = failures;

// Resuming: a page, then the rest behind it.
const begun = await stream({ url, live: false, offset: "-1" });
told.all = (await begun.json()).map((item) => item.n);
told.closed = begun.streamClosed;
told.rest = await followed(false, begun.offset);

// Bytes.
const bytes = Uint8Array.from({ length: 3000 }, (_, at) => (at * 7) % 256);
const raw = await DurableStream.create({ url: `${url}.bytes`, contentType: "application/octet-stream", body: bytes });
await raw.append(bytes);
await raw.close();
told.bytes = [];
for (const live of [false, "long-poll", "sse"]) {
  const response = await stream({ url: `${url}.bytes`, live, offset: "-1" });
  const found = [];
  for await (const chunk of response.bodyStream()) found.push(...chunk);
  told.bytes.push(found.length === 6000 && found.every((value, at) => value === bytes[at % 3000]));
}

console.log(JSON.stringify(told));
