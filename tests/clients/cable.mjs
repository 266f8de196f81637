// node cable.mjs MODULES: clients of Action Cable, Rails' and AnyCable's, driven by JSON lines on stdin; what happens to
// each is printed likewise. MODULES is the folder of the npm packages. The end of stdin ends all.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const modules = process.argv[2];
const require = createRequire(`${modules}/`);
const WebSocket = require("ws");
const { createCable } = await import(`${modules}/@anycable/core/index.js`);

// What Rails' client wants of a browser.
globalThis.document = { visibilityState: "visible" };
globalThis.addEventListener = globalThis.removeEventListener = () => {};
const rails = require("@rails/actioncable");
rails.adapters.WebSocket = WebSocket;
rails.logger.enabled = false;

const print = (event) => console.log(JSON.stringify(event));
const clients = {};

function anycable(name, url, options) {
  const cable = createCable(url, {
    protocol: "actioncable-v1-ext-json", websocketImplementation: WebSocket, logLevel: "error", ...options,
    tokenRefresher: options.refreshed && (async (transport) => {
      print({ client: name, event: "refresh" });
      transport.setToken(options.refreshed);
    }),
  });
  const channels = {};
  for (const event of ["connect", "disconnect", "close"]) {
    cable.on(event, (told) => print({ client: name, event, reason: told?.reason, restored: told?.restored }));
  }
  cable.connect().catch((error) => print({ client: name, event: "failed", reason: error.reason ?? String(error) }));
  return {
    subscribe({ sub, channel, params }) {
      const found = (channels[sub] = cable.subscribeTo(channel, params));
      for (const event of ["connect", "disconnect", "close"]) {
        found.on(event, (told) => print({ client: name, sub, event, reason: told?.reason, restored: told?.restored }));
      }
      found.on("message", (message, meta) => print({ client: name, sub, event: "message", message, meta }));
      found.on("presence", (message) => print({ client: name, sub, event: "presence", message }));
      found.on("info", ({ type }) => print({ client: name, sub, event: type }));
    },
    unsubscribe: ({ sub }) => channels[sub].disconnect(),
    whisper: ({ sub, data }) => channels[sub].whisper(data),
    join: ({ sub, id, info }) => channels[sub].presence.join(id, info),
    leave: ({ sub }) => channels[sub].presence.leave(),
    who: async ({ sub }) => print({ client: name, sub, event: "who", message: await channels[sub].presence.info() }),
    drop({ url: next }) {
      const here = new URL(cable.transport.url);  // with the token and the session
      if (next) here.host = new URL(next).host;
      cable.transport.url = here.href;
      cable.transport.ws.terminate();
    },
    close: () => cable.disconnect(),
  };
}

function railsClient(name, url) {
  const consumer = rails.createConsumer(url);
  const subscriptions = {};
  return {
    subscribe({ sub, channel, params }) {
      subscriptions[sub] = consumer.subscriptions.create({ channel, ...params }, {
        connected: ({ reconnected }) => print({ client: name, sub, event: "connect", reconnected }),
        disconnected: ({ willAttemptReconnect }) => print({ client: name, sub, event: "disconnect", again: willAttemptReconnect }),
        rejected: () => print({ client: name, sub, event: "rejected" }),
        received: (message) => print({ client: name, sub, event: "message", message }),
      });
    },
    unsubscribe: ({ sub }) => subscriptions[sub].unsubscribe(),
    drop({ url: next }) {
      if (next) consumer._url = next;
      consumer.connection.webSocket.terminate();
    },
    close: () => consumer.disconnect(),
  };
}

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { client, make, ...told } = JSON.parse(line);
    if (make) clients[client] = (make === "rails" ? railsClient : anycable)(client, told.url, told.options ?? {});
    else clients[client][told.do](told);
  })
  .on("close", () => process.exit(0));
