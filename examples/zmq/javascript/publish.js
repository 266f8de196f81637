// Publishes the lines of standard input, each a JSON value, to a channel: node publish.js PUSH-ENDPOINT CHANNEL
const readline = require("node:readline")
const { Push } = require("zeromq")

async function main(endpoint, channel) {
  const socket = new Push()
  const { ZMQ_SERVER_KEY, ZMQ_PUBLIC_KEY, ZMQ_SECRET_KEY } = process.env
  if (ZMQ_SERVER_KEY) {
    socket.curveServerKey = ZMQ_SERVER_KEY
    socket.curvePublicKey = ZMQ_PUBLIC_KEY
    socket.curveSecretKey = ZMQ_SECRET_KEY
  }
  socket.connect(endpoint)
  for await (const line of readline.createInterface({ input: process.stdin })) {
    await socket.send([channel, line]) // waits while the queue is full
  }
  socket.close() // the process ends when all is sent
}

main(...process.argv.slice(2))
