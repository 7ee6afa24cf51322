/** The conversation that a new user would try, through the types that openapi-typescript generates from the document. */

import createClient from "openapi-fetch";
import type { components, paths } from "./generated/api.js";

type Problem = components["schemas"]["Problem"];

declare const process: { argv: string[] };

const [ada, bob, dan] = ["01ARZ3NDEKTSV4RRFFQ69G5FAA", "01ARZ3NDEKTSV4RRFFQ69G5FAB", "01ARZ3NDEKTSV4RRFFQ69G5FAD"] as const;
const client = createClient<paths>({ baseUrl: process.argv[2] ?? "" });

function demand(holds: boolean, sentence: string): asserts holds {
  if (!holds) throw new Error(sentence);
}

function refused(answer: { response: Response; error?: Problem }, status: number, code: string, pointers: string[]): void {
  demand(answer.error !== undefined, `${code}: was not refused`);
  demand(answer.response.status === status && answer.error.status === status, `${code}: ${answer.response.status}`);
  demand(answer.error.code === code, `${code}: ${answer.error.code}`);
  const found = answer.error.errors.map((failure) => failure.pointer);
  demand(JSON.stringify(found) === JSON.stringify(pointers), `${code}: ${found}`);
}

async function create(): Promise<string> {
  const { data, error } = await client.POST("/v1/threads/create", {
    body: { accountId: ada, title: "generated", administratorIds: [ada], memberIds: [bob] },
  });
  demand(data !== undefined, `create: ${error?.detail}`);
  demand(data.sequenceNr === 1, "create: not the first event");
  return data.threadId;
}

/** Five messages, each request sent twice. */
async function post(threadId: string): Promise<string[]> {
  const posted: string[] = [];
  for (let number = 0; number < 5; number++) {
    for (const replayed of [null, "true"]) {
      const { data, error, response } = await client.POST("/v1/threads/{threadId}/messages/add", {
        params: { path: { threadId }, header: { "Idempotency-Key": `key-${number}` } },
        body: { accountId: bob, messages: [{ text: `message ${number}`, toAccountIds: [ada] }] },
      });
      demand(data !== undefined, `post: ${error?.detail}`);
      demand(response.headers.get("Idempotent-Replayed") === replayed, `post: replayed is not ${replayed}`);
      if (replayed !== null) posted.push(...data.messageIds);
    }
  }
  return posted;
}

/** The ids of all messages, by pages of two. */
async function page(threadId: string): Promise<string[]> {
  const found: string[] = [];
  let cursor: string | null | undefined;
  do {
    const query = { account_id: ada, limit: 2, ...(cursor ? { cursor } : {}) };
    const answer = await client.GET("/v1/threads/{threadId}/messages", { params: { path: { threadId }, query } });
    demand(answer.data !== undefined, `page: ${answer.error?.detail}`);
    found.push(...answer.data.result.map((message) => message.id));
    cursor = answer.data.nextCursor;
  } while (cursor);
  return found;
}

async function fail(threadId: string): Promise<void> {
  const path = { threadId };
  const body = { accountId: bob, messages: [{ text: "", messageId: "x" }] };
  const empty = await client.POST("/v1/threads/{threadId}/messages/add", { params: { path }, body });
  refused(empty, 400, "validation-failed", ["/messages/0/messageId", "/messages/0/text"]);
  const query = { account_id: ada, limit: 1001 };
  const many = await client.GET("/v1/threads/{threadId}/messages", { params: { path, query } });
  refused(many, 400, "validation-failed", ["limit"]);
  const destroy = await client.POST("/v1/threads/{threadId}/destroy", { params: { path }, body: { accountId: bob } });
  refused(destroy, 403, "not-administrator", []);
  const stranger = await client.GET("/v1/threads/{threadId}", { params: { path, query: { account_id: dan } } });
  refused(stranger, 404, "thread-not-found", []);
}

const threadId = await create();
const posted = await post(threadId);
const found = await page(threadId);
demand(JSON.stringify(found) === JSON.stringify(posted), `page: ${found}, not ${posted}`);
await fail(threadId);
