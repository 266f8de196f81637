// The libraries pusher-js, pusher and laravel-echo against the nodes at the ports in PORTS: clients take turns among these.
// Every check is a line of JSON, {"passed": name}; the process ends with 1 at the first that fails.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";
import fs from "node:fs";

const modules = process.env.MODULES;
const require = createRequire(path.join(modules, "x.js"));
const PusherServer = require("pusher");
const PusherClient = require("pusher-js");
const nacl = require("tweetnacl");
const { default: Echo } = await import(pathToFileURL(path.join(modules, "laravel-echo/dist/echo.js")));

const [id, key, secret] = ["7", "app-key", "app-secret"];
const ports = process.env.PORTS.split(",").map(Number);
const patience = 60_000;
let turn = 0;

const masterKey = Buffer.alloc(32, 7).toString("base64");
const server = new PusherServer({
  appId: id, key, secret, host: "127.0.0.1", port: String(ports[0]), useTLS: false, encryptionMasterKeyBase64: masterKey,
});

function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`not in time: ${what}`)), patience); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function check(condition, what) {
  if (!condition) throw new Error(what);
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

// The next event of a channel, or of a connection.
const next = (target, event) =>
  within(event, new Promise((resolve) => {
    const took = (data, more) => { target.unbind(event, took); resolve({ data, more }); };
    target.bind(event, took);
  }));

const options = (user, info) => ({
  wsHost: "127.0.0.1", wsPort: ports[turn++ % ports.length], forceTLS: false, enabledTransports: ["ws", "wss"],
  cluster: "", disableStats: true, nacl,
  channelAuthorization: {
    customHandler: ({ socketId, channelName }, done) => {
      if (channelName.endsWith("-refused")) return done(null, { auth: `${key}:00` });
      const member = channelName.startsWith("presence-") ? { user_id: user, user_info: info } : undefined;
      done(null, server.authorizeChannel(socketId, channelName, member));
    },
  },
  userAuthentication: {
    customHandler: ({ socketId }, done) => done(null, server.authenticateUser(socketId, { id: user, user_info: info, watchlist: ["u1", "u2"] })),
  },
});

async function connect(user, info = { name: user }) {
  const client = new PusherClient(key, options(user, info));
  await next(client.connection, "connected");
  check(/^\d+\.\d+$/.test(client.connection.socket_id), "socket_id");
  return client;
}

async function subscribe(client, name) {
  const channel = client.subscribe(name);
  if (channel.subscribed) return channel;
  await next(channel, "pusher:subscription_succeeded");
  return channel;
}

const json = async (response) => (await response).json();
const checks = {
  async public() {
    const one = await connect("u1"), other = await connect("u2");
    const [first, second] = [await subscribe(one, "room"), await subscribe(other, "room")];
    const told = [next(first, "made"), next(second, "made")];
    const response = await server.trigger("room", "made", { message: "hello", list: [1, { a: null }] });
    check(response.status === 200, "status");
    for (const { data } of await Promise.all(told)) check(same(data, { message: "hello", list: [1, { a: null }] }), "data");
    // Not to the connection that is named, on whichever node.
    for (const [skipped, channel, others] of [[one, first, second], [other, second, first]]) {
      let heard = 0;
      const count = () => { heard += 1; };
      channel.bind("except", count);
      const came = next(others, "except");
      await server.trigger("room", "except", {}, { socket_id: skipped.connection.socket_id });
      await came;
      const behind = next(channel, "behind");
      await server.trigger("room", "behind", "text");
      check((await behind).data === "text", "a text stays a text");
      check(heard === 0, "excluded");
      channel.unbind("except", count);
    }
    const info = await json(server.trigger("room", "made", {}, { info: "subscription_count" }));
    check(same(info, { channels: { room: { subscription_count: 2 } } }), JSON.stringify(info));
    one.unsubscribe("room");
    for (const client of [one, other]) client.disconnect();
  },
  async private() {
    const client = await connect("u1");
    const channel = await subscribe(client, "private-room");
    const came = next(channel, "made");
    await server.trigger("private-room", "made", "1");
    check((await came).data === 1, "data");
    const refused = client.subscribe("private-refused");
    const { data } = await next(refused, "pusher:subscription_error");
    check(data.type === "AuthError" && data.status === 401, "the refusal is told");
    client.disconnect();
  },
  async encrypted() {
    const client = await connect("u1");
    const channel = await subscribe(client, "private-encrypted-room");
    const came = next(channel, "made");
    await server.trigger("private-encrypted-room", "made", { secret: "x" });
    check(same((await came).data, { secret: "x" }), "decrypted");
    client.disconnect();
  },
  async presence() {
    const ann = await connect("ann"), bob = await connect("bob"), tab = await connect("ann", { name: "other" });
    const first = await subscribe(ann, "presence-room");
    check(first.members.count === 1 && first.members.me.id === "ann", "alone");
    const added = next(first, "pusher:member_added");
    const second = await subscribe(bob, "presence-room");
    check(second.members.count === 2 && same(second.members.get("ann").info, { name: "ann" }), "who is there");
    check((await added).data.id === "bob", "added");
    const third = await subscribe(tab, "presence-room");
    check(third.members.count === 2 && third.members.me.info.name === "ann", "a user counts once");
    const users = await json(server.get({ path: "/channels/presence-room/users" }));
    check(same(users.users.map((user) => user.id).sort(), ["ann", "bob"]), "users");
    const typing = next(second, "client-typing");
    check(first.trigger("client-typing", { a: [1] }), "trigger");
    const { data, more } = await typing;
    check(same(data, { a: [1] }) && more.user_id === "ann", "a client event, and whose");
    const removed = next(first, "pusher:member_removed");
    tab.disconnect();
    bob.disconnect();
    check((await removed).data.id === "bob", "removed, and only who has no connection any more");
    ann.disconnect();
  },
  async batch() {
    const client = await connect("u1");
    const channel = await subscribe(client, "batch");
    const got = [];
    const all = new Promise((resolve) => channel.bind_global((name, data) => {
      if (name.startsWith("event")) got.push([name, data]);
      if (got.length === 2) resolve();
    }));
    const told = await json(server.triggerBatch([
      { channel: "batch", name: "event1", data: { a: 1 }, info: "subscription_count" }, { channel: "batch", name: "event2", data: "b" },
    ]));
    check(same(told, { batch: [{ subscription_count: 1 }, {}] }), JSON.stringify(told));
    await within("batch", all);
    check(same(got, [["event1", { a: 1 }], ["event2", "b"]]), "in order");
    client.disconnect();
  },
  async questions() {
    const client = await connect("u1");
    await subscribe(client, "asked");
    await subscribe(client, "presence-asked");
    const { channels } = await json(server.get({ path: "/channels", params: { filter_by_prefix: "presence-a", info: "user_count" } }));
    check(same(channels, { "presence-asked": { user_count: 1 } }), JSON.stringify(channels));
    const one = await json(server.get({ path: "/channels/asked", params: { info: "subscription_count" } }));
    check(same(one, { occupied: true, subscription_count: 1 }), JSON.stringify(one));
    const none = await json(server.get({ path: "/channels/nobody" }));
    check(same(none, { occupied: false }), JSON.stringify(none));
    const failed = await server.get({ path: "/channels/asked/users" }).then(() => 200, (error) => error.status);
    check(failed === 400, "no presence channel");
    client.disconnect();
  },
  async cache() {
    const name = `cache-room-${process.pid}`;
    const one = await connect("u1"), other = await connect("u2");
    const channel = one.subscribe(name);
    await next(channel, "pusher:cache_miss");
    await server.trigger(name, "made", { n: 1 });
    const late = other.subscribe(name);
    check(same((await next(late, "made")).data, { n: 1 }), "the last event");
    const { cache } = await json(server.get({ path: `/channels/${name}`, params: { info: "cache" } }));
    check(cache.data === '{"n":1}' && cache.ttl > 1000, JSON.stringify(cache));
    for (const client of [one, other]) client.disconnect();
  },
  async users() {
    const client = await connect("u1"), other = await connect("u2");
    for (const each of [client, other]) {
      each.signin();
      await within("signed in", each.user.signinDonePromise);
    }
    const channel = client.user.serverToUserChannel;
    if (!channel.subscribed) await next(channel, "pusher:subscription_succeeded");
    const mail = new Promise((resolve) => client.user.bind("mail", resolve));
    await server.sendToUser("u1", "mail", { from: "u2" });
    check(same(await within("mail", mail), { from: "u2" }), "mail");
    const ended = next(client.connection, "error");
    await server.terminateUserConnections("u1");
    check((await ended).data.data.code === 4009, "ended");
    check(other.connection.state === "connected", "nobody else");
    for (const each of [client, other]) each.disconnect();
  },
  async refused() {
    const client = new PusherClient("unknown", options("u1"));
    const { data } = await next(client.connection, "error");
    check(data.error.data.code === 4001, "no app");
    client.disconnect();
  },
  async echo() {
    for (const broadcaster of ["reverb", "pusher"]) {
      const make = (user) => new Echo({ broadcaster, Pusher: PusherClient, key, ...options(user, { name: user }), wssPort: 1, authEndpoint: "/" });
      const [ann, bob] = [make("ann"), make("bob")];
      const ready = (channel) => within("subscribed", new Promise((resolve) => channel.subscribed(resolve)));
      const orders = `orders.${broadcaster}`;
      const [first, second] = [ann.private(orders), bob.private(orders)];
      await Promise.all([ready(first), ready(second)]);
      const shipped = new Promise((resolve) => first.listen("OrderShipped", resolve));
      const custom = new Promise((resolve) => first.listen(".order.shipped", resolve));
      await server.trigger(`private-${orders}`, "App\\Events\\OrderShipped", { order: 1 });
      await server.trigger(`private-${orders}`, "order.shipped", { order: 2 });
      check((await within("listen", shipped)).order === 1 && (await within("listen", custom)).order === 2, "events");
      const whisper = new Promise((resolve) => second.listenForWhisper("typing", resolve));
      first.whisper("typing", { name: "ann" });
      check((await within("whisper", whisper)).name === "ann", "whisper");
      const room = `room.${broadcaster}`;
      const joined = new Promise((resolve) => {
        ann.join(room).here((users) => {
          check(users.length === 1, "here");
          bob.join(room);
        }).joining(resolve);
      });
      check((await within("joining", joined)).name === "bob", "joining");
      const left = new Promise((resolve) => ann.join(room).leaving(resolve));
      bob.leave(room);
      check((await within("leaving", left)).name === "bob", "leaving");
      for (const echo of [ann, bob]) echo.disconnect();
    }
  },
  async webhook() {
    // What has come to a webhook, as a file has it, in the eyes of the server's library.
    const { headers, body } = JSON.parse(fs.readFileSync(process.env.WEBHOOK));
    const webhook = server.webhook({ headers, rawBody: body });
    check(webhook.isValid() && webhook.getEvents().length > 0, "webhook");
    check(!server.webhook({ headers, rawBody: body + " " }).isValid(), "another body");
  },
  async returns() {
    // A client whose node stops goes to another one by itself, and is subscribed again. The port is that of a balancer.
    const client = await connect("u1");
    const [room, members] = [await subscribe(client, "room"), await subscribe(client, "presence-room")];
    const codes = [], first = client.connection.socket_id;
    client.connection.bind("error", (error) => codes.push(error?.data?.code ?? error?.error?.data?.code));
    const again = Promise.all([room, members].map((channel) => next(channel, "pusher:subscription_succeeded")));
    console.log(JSON.stringify({ subscribed: true }));
    await again;
    check(client.connection.socket_id !== first && client.connection.state === "connected", "connected again");
    check(members.members.count === 1 && members.members.me.id === "u1", "who is there");
    const came = next(room, "made");
    await server.trigger("room", "made", { back: true });
    check((await came).data.back, "it hears on");
    console.log(JSON.stringify({ codes: [...new Set(codes)] }));
    client.disconnect();
  },
};

const late = setTimeout(() => { console.error("the checks take too long"); process.exit(1); }, 4 * patience);
for (const name of process.env.CHECKS.split(",")) {
  await checks[name]();
  console.log(JSON.stringify({ passed: name }));
}
clearTimeout(late);
process.exit(0);
