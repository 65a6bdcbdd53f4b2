// Package bench measures the hot paths, each beside a rival in the same run: what
// a lookup costs in the process, and what a hit costs over HTTP beside a handler
// that only reads the same body and writes the same bytes.
//
//	make bench
package bench
