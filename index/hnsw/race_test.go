//go:build race

package hnsw

// underRace: pools drop what they are given now and then.
const underRace = true
