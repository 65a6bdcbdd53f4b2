// Package wire knows what Ollama's and OpenAI's HTTP bodies look like.
//
// It decodes requests into one canonical form (the key material of the cache
// and the body that is forwarded), joins streamed answers into a
// protocol-neutral Answer, renders Answers again for any client, and frames
// NDJSON and server-sent events. It does no I/O of its own and knows nothing of
// caching; package proxy combines the two.
package wire
