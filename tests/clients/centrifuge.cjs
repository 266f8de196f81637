// What users do with the npm package centrifuge, over each of its transports: a client is at one node, and what it sends
// by other requests, and the API, at another one. Arguments: the folder of the packages, the two hosts, the API's key.
// It prints a line for each transport.
const [modules, host, other, key] = process.argv.slice(2);
const { Centrifuge } = require(`${modules}/centrifuge`);
const { Centrifuge: Protobuf } = require(`${modules}/centrifuge/build/protobuf`);
const WebSocket = require(`${modules}/ws`);
const EventSource = require(`${modules}/eventsource`);

const wait = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));
const check = (what, text) => { if (!what) throw new Error(text); };

async function call(method, request) {
  const options = { method: "POST", headers: { "X-API-Key": key }, body: JSON.stringify(request) };
  const answer = await (await fetch(`http://${other}/api/${method}`, options)).json();
  check(answer.result, JSON.stringify(answer));
}

async function run(name, kind, endpoint) {
  const isBytes = kind === Protobuf;
  const write = (value) => isBytes ? new TextEncoder().encode(JSON.stringify(value)) : value;
  const read = (value) => isBytes ? JSON.parse(new TextDecoder().decode(value)) : value;
  const client = new kind(endpoint, {
    websocket: WebSocket, eventsource: EventSource, fetch, readableStream: ReadableStream,
    emulationEndpoint: `http://${other}/emulation`, minReconnectDelay: 50, maxReconnectDelay: 100,
  });
  const channel = `npm-${name}-${Math.random()}`;
  let event = wait(client, "connected");
  client.connect();
  const own = (await event).client;
  const sub = client.newSubscription(channel, { joinLeave: true, recoverable: true, positioned: true });
  const joined = wait(sub, "join");
  event = wait(sub, "subscribed");
  sub.subscribe();
  check((await event).recoverable, "recoverable");
  check((await joined).info.client === own, "its own join");
  event = wait(sub, "publication");
  await sub.publish(write({ n: 1 }));
  const publication = await event;
  check(read(publication.data).n === 1 && publication.info.client === own, "its own message");
  event = wait(sub, "publication");
  await call("publish", { channel, data: { n: 2 } });
  check(read((await event).data).n === 2, "a message of the API");
  check((await sub.history({ limit: 10 })).publications.length === 2, "history");
  check(Object.keys((await sub.presence()).clients)[0] === own, "presence");
  check((await sub.presenceStats()).numUsers === 1, "presence stats");
  event = wait(client, "disconnected");
  client.disconnect();
  await event;
  await call("publish", { channel, data: { n: 3 } });
  event = wait(sub, "subscribed");
  const missed = wait(sub, "publication");
  const connected = wait(client, "connected");
  client.connect();
  const again = (await connected).client;
  const { wasRecovering, recovered } = await event;
  check(wasRecovering && recovered && read((await missed).data).n === 3, "recovered");
  const error = await client.rpc("method", write({})).catch((error) => error);
  check(error.code === 104, "no rpc");
  event = wait(client, "disconnected");
  await call("disconnect", { client: again });
  check((await event).code === 3503, "disconnected by the API");
  console.log(name);
}

// Deltas: what changes of a document, by both hosts, and what was missed while the client was away.
async function change(name, kind, endpoint) {
  const read = (value) => kind === Protobuf ? JSON.parse(new TextDecoder().decode(value)) : value;
  const client = new kind(endpoint, {
    websocket: WebSocket, fetch, readableStream: ReadableStream, emulationEndpoint: `http://${other}/emulation`,
    minReconnectDelay: 50, maxReconnectDelay: 100,
  });
  const channel = `delta-${name}-${Math.random()}`;
  const sub = client.newSubscription(channel, { delta: "fossil" });
  const text = (n) => ({ n, text: "ein längerer Text, € 5 😀 ".repeat(40) });
  const got = [];
  let enough = () => {};
  sub.on("publication", ({ data }) => {
    got.push(read(data));
    check(JSON.stringify(got.at(-1)) === JSON.stringify(text(got.length)), `message ${got.length}`);
    enough();
  });
  const until = (count) => new Promise((resolve) => {
    enough = () => { if (got.length >= count) resolve(); };
    enough();
  });
  let event = wait(sub, "subscribed");
  sub.subscribe();
  client.connect();
  await event;
  const publish = async (first, last) => {
    for (let n = first; n <= last; n++) await call("publish", { channel, data: text(n) });
  };
  await publish(1, 4);
  await until(4);
  event = wait(client, "disconnected");
  client.disconnect();
  await event;
  await publish(5, 7);
  event = wait(sub, "subscribed");
  client.connect();
  check((await event).recovered, "recovered");
  await until(7);
  await publish(8, 10);
  await until(10);
  const { numFullPayloads, numDeltaPayloads, bytesReceived } = sub.deltaStats();
  // The first message, those that were missed, and the one that follows come whole.
  check(numFullPayloads === 5 && numDeltaPayloads === 5 && bytesReceived < 7000, JSON.stringify(sub.deltaStats()));
  client.disconnect();
}

async function all() {
  const stream = [{ transport: "http_stream", endpoint: `http://${host}/connection/http_stream` }];
  await run("websocket", Centrifuge, `ws://${host}/connection/websocket`);
  await run("websocket protobuf", Protobuf, `ws://${host}/connection/websocket`);
  await run("http_stream", Centrifuge, stream);
  await run("http_stream protobuf", Protobuf, stream);
  await run("sse", Centrifuge, [{ transport: "sse", endpoint: `http://${host}/connection/sse` }]);
  await change("websocket", Centrifuge, `ws://${host}/connection/websocket`);
  await change("protobuf", Protobuf, `ws://${host}/connection/websocket`);
  await change("http_stream", Centrifuge, stream);
  process.exit(0);
}

all().catch((error) => { console.error(error); process.exit(1); });
