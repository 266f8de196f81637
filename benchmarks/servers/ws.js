// The `ws` package as a server: GET /CHANNEL (WebSocket) subscribes, POST /CHANNEL publishes. `node ws.js PORT`
const http = require("http");
const { WebSocket, WebSocketServer } = require("ws");

const channels = new Map();

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    for (const socket of channels.get(request.url) ?? []) {
      if (socket.readyState === WebSocket.OPEN) socket.send(body, { binary: false });
    }
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
});
server.keepAliveTimeout = 600_000;

// Only clients that offer compression get it.
new WebSocketServer({ server, perMessageDeflate: { threshold: 0 } }).on("connection", (socket, request) => {
  const name = request.url;
  if (!channels.has(name)) channels.set(name, new Set());
  channels.get(name).add(socket);
  socket.on("error", () => {}); // the close that follows is enough
  socket.on("close", () => {
    channels.get(name)?.delete(socket);
    if (!channels.get(name)?.size) channels.delete(name);
  });
});

server.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
