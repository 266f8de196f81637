"use strict";

const get = (id) => document.getElementById(id);
const MOST = 500; // messages that are shown

let me = null; // the user, as /me tells; null: not logged in
let socket = null; // the WebSocket to Raiden
let tries = 0; // to connect, since the last one that succeeded
let room = null; // what is shown: the channel, its cursor (null until Raiden has let us in), the id of `subscribe`
let asked = 0; // the last id
let said = Promise.resolve(); // when all that the user has said so far is sent

// The application.

async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const value = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.error), { status: answer.status });
  return value;
}

/** Whether a failure is for good: the application has refused it. */
const refused = (error) => error.status >= 400 && error.status < 500;

/** A token for Raiden. Those who get none any more are logged out. */
async function token() {
  try {
    return (await ask("POST", "/token")).token;
  } catch (error) {
    if (refused(error)) leave(error.message);
    throw error;
  }
}

// Raiden.

async function connect() {
  const user = me;
  let opened;
  try {
    opened = new WebSocket(me.raiden, ["raiden", "raiden.token." + (await token())]);
  } catch {
    if (user === me) again();
    return;
  }
  if (user !== me) return opened.close(); // logged out meanwhile
  socket = opened;
  opened.onopen = () => {
    tries = 0;
    get("state").value = "connected";
    subscribe();
  };
  opened.onmessage = (event) => receive(JSON.parse(event.data));
  opened.onclose = (event) => {
    if (opened === socket) closed(event.code);
  };
}

function closed(code) {
  socket = null;
  // 4503: our tokens were revoked. From 4500 on, a close code means: do not come back.
  if (code >= 4500) leave("you are banned");
  // 4401: the token has expired, since it could not be renewed. Whatever it was: connect again, with another token.
  else again();
}

/** Connect again, in a moment: all others may do so at the same time, so each waits for another time. */
function again() {
  const user = me;
  get("state").value = "connecting again";
  setTimeout(() => user === me && connect(), Math.min(500 * 2 ** tries++, 15000) * (0.5 + Math.random()));
}

function send(command) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
}

function receive(frame) {
  if ("expires" in frame && !("id" in frame)) {
    setTimeout(renew, 500 * frame.expires); // after half of the time that is left
  } else if (room && frame.id === room.asked) {
    if (frame.error?.code === 403) close("this room is private");
    else if (frame.error) socket.close(); // not now: connect again
    else room.cursor = frame.cursor;
  } else if (room && frame.channel === room.channel && room.cursor !== null) {
    if (frame.ended) return close("you may not be in this room any more");
    if (frame.recovered === false) notice("some messages are lost");
    if ("cursor" in frame) room.cursor = frame.cursor;
    if ("data" in frame) show(frame.data);
  }
}

async function renew() {
  if (!socket) return; // the next one begins with another token
  try {
    send({ id: "auth", cmd: "auth", token: await token() });
  } catch {
    // Raiden ends the connection when the token has expired; then `closed` goes on.
  }
}

// A room.

function enter(name) {
  if (room) send({ cmd: "unsubscribe", channel: room.channel });
  close("");
  room = { channel: "room." + name, cursor: null, asked: 0 };
  for (const button of get("rooms").children) button.toggleAttribute("aria-current", button.value === name);
  subscribe();
}

/** Subscribe, with the last messages; after a lost connection, with those that came since. */
function subscribe() {
  if (!room) return;
  room.asked = ++asked;
  const begin = room.cursor === null ? { last: 50 } : { since: room.cursor };
  send({ id: room.asked, cmd: "subscribe", channel: room.channel, ...begin });
}

function close(why) {
  room = null;
  get("messages").replaceChildren();
  for (const button of get("rooms").children) button.removeAttribute("aria-current");
  notice(why);
}

/** Show a message. What people wrote is set as text, never as HTML. */
function show(message) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  const from = document.createElement("b");
  const text = document.createElement("span");
  time.textContent = new Date(message.at * 1000).toLocaleTimeString();
  from.textContent = message.from;
  text.textContent = message.text;
  item.append(time, " ", from, ": ", text);
  if (me.moderator && message.from !== me.name) {
    const ban = document.createElement("button");
    ban.textContent = "ban";
    ban.onclick = () => ask("POST", "/ban", { name: message.from }).catch((error) => notice(error.message));
    item.append(" ", ban);
  }
  const list = get("messages");
  list.append(item);
  if (list.children.length > MOST) list.firstChild.remove();
  item.scrollIntoView({ block: "nearest" });
}

/** Send a message to the application, which publishes it. It has a key: sent again after a failure, it is said once. */
async function say(path, text) {
  const key = crypto.randomUUID();
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask("POST", path, { text, key });
    } catch (error) {
      if (refused(error) || attempt === 10) return notice(`not sent: ${error.message}`);
      await new Promise((done) => setTimeout(done, 500 * attempt));
    }
  }
}

// The page.

function notice(text) {
  get("notice").textContent = text;
}

function start(user) {
  me = user;
  tries = 0;
  get("name").textContent = me.name;
  get("rooms").replaceChildren(
    ...me.rooms.map(({ name, private: locked }) => {
      const button = document.createElement("button");
      button.value = name;
      button.textContent = name + (locked ? " (private)" : "");
      button.onclick = () => enter(name);
      return button;
    }),
  );
  get("login").hidden = true;
  get("chat").hidden = false;
  enter(me.rooms[0].name);
  connect();
}

/** Show the form to log in, and why. */
function leave(why) {
  const left = socket;
  me = socket = null;
  left?.close();
  close(why);
  get("login").hidden = false;
  get("chat").hidden = true;
}

get("login").onsubmit = (event) => {
  event.preventDefault();
  const { name, password } = event.target.elements;
  ask("POST", "/login", { name: name.value, password: password.value })
    .then(start)
    .catch((error) => notice(error.message));
  password.value = "";
};
get("say").onsubmit = (event) => {
  event.preventDefault();
  const { text } = event.target.elements;
  if (!room) return;
  const path = "/rooms/" + room.channel.slice("room.".length);
  const words = text.value;
  said = said.then(() => say(path, words)); // one after the other
  text.value = "";
};
get("logout").onclick = () => ask("POST", "/logout").finally(() => leave(""));

ask("GET", "/me").then(start, (error) => leave(error.status === 401 ? "" : error.message));
