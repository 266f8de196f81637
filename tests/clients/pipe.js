// pipe.js PORT: a proxy for HTTP in front of that port, as a program of Node's makes one. Prints its own port.
"use strict";
const http = require("http");

const server = http.createServer((request, response) => {
  http.get({ port: process.argv[2], path: request.url, headers: request.headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
