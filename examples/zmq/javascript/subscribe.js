// Prints what comes on channels, and says where messages are missing: node subscribe.js ENDPOINT PREFIX COUNT
const { Subscriber } = require("zeromq")

const IN_FORCE = "-/in-force/1"

async function main(endpoint, prefix, count) {
  const socket = new Subscriber()
  const { ZMQ_SERVER_KEY, ZMQ_PUBLIC_KEY, ZMQ_SECRET_KEY } = process.env
  if (ZMQ_SERVER_KEY) {
    socket.curveServerKey = ZMQ_SERVER_KEY
    socket.curvePublicKey = ZMQ_PUBLIC_KEY
    socket.curveSecretKey = ZMQ_SECRET_KEY
  }
  socket.connect(endpoint)
  socket.subscribe(prefix)
  socket.subscribe(IN_FORCE) // comes when both subscriptions hold, and again after each reconnect

  const last = new Map()
  let received = 0
  for await (const frames of socket) {
    const [channel, payload, cursor] = frames.map(String)
    if (channel === IN_FORCE) {
      console.log("ready")
      continue
    }
    if (cursor) { // the channel keeps a history
      const [epoch, offset] = cursor.split(":")
      const [lastEpoch, lastOffset] = (last.get(channel) ?? cursor).split(":")
      if (epoch !== lastEpoch) {
        console.error(`new epoch: ${channel}`)
      } else if (Number(offset) > Number(lastOffset) + 1) {
        console.error(`gap: ${channel} after ${last.get(channel)}`)
        process.exitCode = 1
      }
      last.set(channel, cursor)
    }
    console.log(`${channel}\t${cursor}\t${payload}`)
    if (++received === count) break
  }
  socket.close()
}

const [endpoint, prefix, count] = process.argv.slice(2)
main(endpoint, prefix, Number(count))
