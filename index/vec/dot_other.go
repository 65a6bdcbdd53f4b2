//go:build (!amd64 && !arm64) || purego

package vec

// dot takes slices of equal length.
func dot(a, b []float32) float32 { return dotGo(a, b) }
