// Socket.IO as a server: who connects with ?channel=NAME joins that room, POST /NAME emits to it.
// `node socketio.js PORT`
const http = require("http");
const { Server } = require("socket.io");

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    io.to(request.url.slice(1)).emit("message", Buffer.concat(chunks).toString());
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
});
server.keepAliveTimeout = 600_000;

const io = new Server({ transports: ["websocket"], pingInterval: 600_000 });
io.on("connection", (socket) => socket.join(socket.handshake.query.channel));
io.attach(server);

server.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
