// Drives a running semcached with the official JavaScript clients:
//   node check.mjs URL MODEL
// Each question is asked twice; the second answer must come from the cache and
// read the same. Exits with 1 and a message when something is not as it should be.
import assert from 'node:assert/strict';
import { Ollama } from 'ollama';
import OpenAI from 'openai';

const [url, model] = process.argv.slice(2);
let lastHeaders;
const recording = async (input, init) => {
  const response = await fetch(input, init);
  lastHeaders = response.headers;
  return response;
};
const nonce = `${process.pid} ${Date.now()}`;

async function check(name, ask) {
  const first = await ask();
  assert.equal(lastHeaders.get('x-cache'), 'MISS', `${name}: first call`);
  const second = await ask();
  assert.equal(lastHeaders.get('x-cache'), 'HIT', `${name}: second call`);
  assert.ok(first.length > 0, `${name}: empty answer`);
  assert.equal(second, first, `${name}: the hit reads differently`);
  console.log(`ok ${name}: ${JSON.stringify(first.slice(0, 40))}`);
}

const ollama = new Ollama({ host: url, fetch: recording });
const messages = (what) => [{ role: 'user', content: `${what}, run ${nonce}?` }];

await check('ollama chat', async () =>
  (await ollama.chat({ model, messages: messages('Where does the river begin') })).message.content);
await check('ollama chat stream', async () => {
  let text = '';
  for await (const part of await ollama.chat({ model, messages: messages('Who painted the bridge'), stream: true })) {
    text += part.message.content;
  }
  return text;
});
await check('ollama generate', async () =>
  (await ollama.generate({ model, prompt: `Why do leaves fall, run ${nonce}?` })).response);
await check('ollama generate stream', async () => {
  let text = '';
  for await (const part of await ollama.generate({ model, prompt: `How deep is the lake, run ${nonce}?`, stream: true })) {
    text += part.response;
  }
  return text;
});
assert.ok((await ollama.list()).models.length > 0, 'ollama list');
await assert.rejects(
  ollama.chat({ model: 'no-such-model', messages: messages('Anyone') }),
  /not found/,
  'an unknown model is the error Ollama gives',
);

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', fetch: recording, maxRetries: 0 });
await check('openai chat', async () =>
  (await openai.chat.completions.create({ model, messages: messages('When does the market open') })).choices[0].message.content);
await check('openai chat stream', async () => {
  let text = '';
  let finish = null;
  const stream = await openai.chat.completions.create({ model, messages: messages('What did the baker say'), stream: true });
  for await (const part of stream) {
    text += part.choices[0]?.delta?.content ?? '';
    finish = part.choices[0]?.finish_reason ?? finish;
  }
  assert.equal(finish, 'stop');
  return text;
});
assert.ok((await openai.models.list()).data.length > 0, 'openai models');
await assert.rejects(
  openai.chat.completions.create({ model: 'no-such-model', messages: messages('Anyone') }),
  (err) => err.status === 404 && /not found/.test(err.message),
  'an unknown model is a 404',
);
// Across protocols: Ollama's /v1 layer forces a temperature and top_p of 1.
const same = { temperature: 1, top_p: 1 };
const viaOllama = async (what) => (await ollama.chat({ model, messages: messages(what), options: same })).message.content;
const viaOpenAI = async (what) => {
  let text = '';
  const stream = await openai.chat.completions.create({ model, messages: messages(what), stream: true });
  for await (const part of stream) text += part.choices[0]?.delta?.content ?? '';
  return text;
};
for (const [from, to, what] of [[viaOllama, viaOpenAI, 'Which tide turns first'], [viaOpenAI, viaOllama, 'Which moon rises last']]) {
  const first = await from(what);
  assert.equal(lastHeaders.get('x-cache'), 'MISS', what);
  assert.equal(await to(what), first, what);
  assert.equal(lastHeaders.get('x-cache'), 'HIT', what);
}
console.log('all clients passed');
