// The transport for the AI SDK: an answer is written to a stream at BASE, and read from it; a second page resumes it.
import { createServer } from "node:http";
import { createDurableChatTransport, toDurableStreamResponse } from "@durable-streams/aisdk-transport";

const base = process.argv[2];
const path = `${base}/chats/1`;
const words = [...Array(50).keys()].map((n) => `word${n} `);
let release;
const half = new Promise((resolve) => (release = resolve));

async function* answer() {
  yield { type: "start", messageId: "m1" };
  yield { type: "text-start", id: "t1" };
  for (const [n, delta] of words.entries()) {
    if (n === 25) await half; // the first page has gone by then
    yield { type: "text-delta", id: "t1", delta };
  }
  yield { type: "text-end", id: "t1" };
  yield { type: "finish" };
}

// The application: it starts a generation, or tells where it is.
const server = createServer(async (request, response) => {
  const found =
    request.method === "POST"
      ? await toDurableStreamResponse({ source: answer(), stream: { writeUrl: path, readUrl: path } })
      : Response.json({ streamUrl: path }, { status: 200, headers: { Location: path } });
  response.writeHead(found.status, Object.fromEntries(found.headers));
  response.end(await found.text());
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const transport = createDurableChatTransport({ api: `http://127.0.0.1:${server.address().port}/api/chat` });

async function text(chunks, most = Infinity) {
  let found = "";
  const reader = chunks.getReader();
  for (let count = 0; count < most; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (value.type === "text-delta") {
      found += value.delta;
      count += 1;
    }
  }
  reader.cancel().catch(() => {});
  return found;
}

const messages = [{ id: "u1", role: "user", parts: [{ type: "text", text: "hello" }] }];
const first = await text(await transport.sendMessages({ trigger: "submit-message", chatId: "1", messages }), 20);
const again = transport.reconnectToStream({ chatId: "1" }).then((chunks) => text(chunks));
release();
const second = await again;
console.log(JSON.stringify({ first: first === words.slice(0, 20).join(""), second: second === words.join("") }));
process.exit(0);
