// node ws.js URL true|false: a WebSocket with or without permessage-deflate, driven by JSON lines. A line
// {"text": ...} or {"binary": hex} on stdin is sent; what happens is printed likewise; the end of stdin closes.
const { createInterface } = require("node:readline");
const WebSocket = require("ws");

const [url, deflate] = process.argv.slice(2);
const socket = new WebSocket(url, { perMessageDeflate: deflate === "true" });
const print = (event) => console.log(JSON.stringify(event));

setTimeout(() => process.exit(1), 30000).unref();
socket.on("open", () => {
  print({ open: socket.extensions });
  createInterface({ input: process.stdin })
    .on("line", (line) => {
      const { text, binary } = JSON.parse(line);
      socket.send(text ?? Buffer.from(binary, "hex"));
    })
    .on("close", () => socket.close(1000));
});
socket.on("message", (data, isBinary) => print(isBinary ? { binary: data.toString("hex") } : { text: String(data) }));
socket.on("close", (code) => print({ close: code }));
socket.on("error", (error) => print({ error: error.message }));
